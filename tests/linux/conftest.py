"""Fixtures of the tests of what the kernel does."""

from tests.lock_fixtures import mounts, outsider, tree

__all__ = ["mounts", "outsider", "tree"]
