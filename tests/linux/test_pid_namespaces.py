"""Pid namespaces."""

import errno
import os
import resource

import pytest

from lockd.linux.pid_namespaces import namespace_of


def test_a_shortage_says_nothing_about_a_process() -> None:
    """Without a descriptor, /proc cannot be read. The process is there all the same."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert namespace_of(os.getpid()) is not None
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            namespace_of(os.getpid())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_nothing_is_known_of_a_process_that_has_ended() -> None:
    ended = os.spawnlp(os.P_NOWAIT, "true", "true")
    os.waitpid(ended, 0)
    assert namespace_of(ended) is None
