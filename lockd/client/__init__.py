"""The other end of the socket: connections, and which resource a disk is."""
