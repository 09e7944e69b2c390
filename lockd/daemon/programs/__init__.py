"""The programs that clients can call, and the error replies, which name the holder of a lock."""
