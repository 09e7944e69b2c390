"""Fault injection: each system call of the daemon fails, or hangs, at each of its calls, one point after another.

``strace`` injects the faults, so the daemon has no code for it. The daemon that is played is the real one, with real
files, sockets and processes. ``python -m tests.faults`` plays all points; ``make nightly`` does so.
"""
