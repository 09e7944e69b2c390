"""The start of a daemon: command line, configuration, pid file, listening sockets, and the background."""
