"""The daemon as a program: its command line, its start and end, and what it allows its clients."""
