"""Hostile peers, exhausted descriptors and failing file systems: the daemon keeps its locks and goes on."""
