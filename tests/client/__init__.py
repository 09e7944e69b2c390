"""The client library, with lockd and with the real virtlockd."""
