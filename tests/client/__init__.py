"""The client library, on lockd and on the real virtlockd."""
