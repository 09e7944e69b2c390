"""Failures that end the daemon, or keep it from starting: one line for the person who reads it."""


class Failure(Exception):
    """What happened, to what, and what to do about it."""
