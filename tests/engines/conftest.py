"""Fixtures of the engines' tests."""

import pytest

from tests.lock_fixtures import device, mounts, outsider, tree

__all__ = ["device", "mounts", "outsider", "tree"]

pytest.register_assert_rewrite("tests.engines.contract")
