"""The archive's bytes: pure functions between values and bytes.

No I/O, no clock, no await.  Byte tables: coopfs-format(5).
"""
