"""The daemon as a program: its command line, its start and end, and its limits for clients."""
