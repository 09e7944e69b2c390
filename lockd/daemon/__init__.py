"""The daemon: serves the lock protocol on a socket, with the locks and engines behind it."""
