"""Shortages: errors of system calls that say nothing about what was asked for."""

import errno
from typing import Final

SHORTAGES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))
"""This process or the host has run out of descriptors or memory. Whether there is a file or a process, and what it is,
is not known then."""
