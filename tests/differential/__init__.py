"""Make the same calls to lockd and to the real virtlockd: replies, kernel locks and files have to agree."""
