"""What a daemon starts from: command line, configuration, pid file, listening sockets, the background."""
