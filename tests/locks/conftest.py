"""Fixtures of the lock table's tests."""

from tests.lock_fixtures import device, outsider

__all__ = ["device", "outsider"]
