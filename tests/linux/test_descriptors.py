"""Open descriptors of processes."""

import errno
import os

import pytest

from lockd.linux.descriptors import open_descriptors
from tests.without_descriptors import without_descriptors


def test_a_shortage_is_not_taken_for_no_open_descriptors() -> None:
    """The next program would not inherit what is open, and the locks on it would end."""
    assert 1 in open_descriptors()
    with without_descriptors(), pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        open_descriptors()
