"""What one can do with an archive: one use case a module."""
