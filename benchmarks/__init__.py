"""Benchmarks: lockd, the real virtlockd and a minimal C server, measured in one run on one machine."""
