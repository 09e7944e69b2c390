"""Pid namespaces."""

import errno
import os

import pytest

from lockd.linux.pid_namespaces import namespace_of
from tests.without_descriptors import without_descriptors


def test_a_shortage_says_nothing_about_a_process() -> None:
    """Without a descriptor, /proc cannot be read. The process is there all the same."""
    assert namespace_of(os.getpid()) is not None
    with without_descriptors(), pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        namespace_of(os.getpid())


def test_nothing_is_known_of_a_process_that_has_ended() -> None:
    ended = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(ended, 0)
    assert namespace_of(ended) is None
