"""The client side: connections to a lock daemon, blocking or with trio, and the resource of a disk."""
