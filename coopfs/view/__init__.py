"""The mount: names, inode numbers, the reader, and the adapter to FUSE."""
