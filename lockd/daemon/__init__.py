"""The daemon: the wire and the locks on a socket."""
