"""Events: one log message for each change of a lock, with fields for the journal.

For example, ``journalctl LOCKD_OWNER_NAME=vm1`` shows all events of a guest's locks.
"""

import logging
from typing import Any

from lockd.daemon.interest import interest
from lockd.daemon.owner_process import OwnerProcess, owner_name
from lockd.daemon.rate_limit import RateLimit
from lockd.locks.resource import Resource

ACQUIRED = "3d3c9a0d5f2d4c0f9e5e4a6b4d1f7a01"
RELEASED = "3d3c9a0d5f2d4c0f9e5e4a6b4d1f7a02"
REFUSED = "3d3c9a0d5f2d4c0f9e5e4a6b4d1f7a03"
FENCED = "3d3c9a0d5f2d4c0f9e5e4a6b4d1f7a04"
TAKEN_OVER = "3d3c9a0d5f2d4c0f9e5e4a6b4d1f7a05"
"""The MESSAGE_ID of each kind of event (systemd.journal-fields(7)). Users filter by these: they never
change."""

_logger = logging.getLogger(__name__)
_refusals = RateLimit(_logger, "refused locks")


def look_again() -> None:
    """Update ``interest`` after the log levels have changed."""
    interest.in_grants = _logger.isEnabledFor(logging.INFO)


def acquired(resource: Resource, key: int, owner: OwnerProcess | None) -> None:
    """Log that an owner acquired a lock.

    :param resource: the resource.
    :param key: the key of the owner: its pid, or a negative number if that is not known.
    :param owner: the owner, or None if only its key is known.
    """
    _log(logging.INFO, ACQUIRED, "%s acquired %s", resource.lockspace, resource.name, key, owner)


def released(resource: Resource, key: int, owner: OwnerProcess | None) -> None:
    """Log that a lock was released.

    :param resource: the resource.
    :param key: the key of the owner whose holding was the last one; see ``acquired``.
    :param owner: the owner, or None if only its key is known.
    """
    _log(logging.INFO, RELEASED, "%s released %s", resource.lockspace, resource.name, key, owner)


def refused(lockspace: str, name: str, reason: str, owner: OwnerProcess) -> None:
    """Log that a lock was refused. The number of these messages per second is limited.

    The message is an error, as in virtlockd, because a guest cannot start.

    :param lockspace: the path of the lockspace; empty for the direct lockspace.
    :param name: the resource's name in it.
    :param reason: why it was refused.
    :param owner: the owner that the lock was asked for.
    """
    if _refusals.allows():
        _log(logging.ERROR, REFUSED, "%s was refused %s: %s", lockspace, name, owner.key, owner, reason)


def taken_over(resource: Resource, key: int, owner: OwnerProcess | None) -> None:
    """Log that a lock was kept during a live upgrade.

    :param resource: the resource.
    :param key: the key of the owner: its pid, or a negative number if that is not known.
    :param owner: the owner, or None if only its key is known.
    """
    _log(logging.INFO, TAKEN_OVER, "%s keeps %s", resource.lockspace, resource.name, key, owner)


def released_by_force(resource: Resource, key: int, owner: OwnerProcess | None) -> None:
    """Log that an administrator releases a lock of an owner that has ended.

    :param resource: the resource.
    :param key: the key of the owner: its pid, or a negative number if that is not known.
    :param owner: the owner, or None if only its key is known.
    """
    message = "%s is gone: an administrator releases its lock on %s"
    _log(logging.WARNING, RELEASED, message, resource.lockspace, resource.name, key, owner)


def fenced(owner: OwnerProcess) -> None:
    """Log that an owner is fenced.

    :param owner: the owner.
    """
    _logger.warning(
        "%s dropped its connection while it holds locks: it is killed",
        owner.describe(),
        extra={"fields": {"MESSAGE_ID": FENCED, **_owner_fields(owner.key, owner)}},
    )


def _log(
    level: int,
    message_id: str,
    message: str,
    lockspace: str,
    name: str,
    key: int,
    owner: OwnerProcess | None,
    *details: str,
) -> None:
    fields = {
        "MESSAGE_ID": message_id,
        "LOCKD_LOCKSPACE": lockspace,
        "LOCKD_RESOURCE": name,
        **_owner_fields(key, owner),
    }
    who = owner_name(key, owner)
    what = f"{lockspace}/{name}" if lockspace else name
    _logger.log(level, message, who, what, *details, extra={"fields": fields})


def _owner_fields(key: int, owner: OwnerProcess | None) -> dict[str, Any]:
    pid = key if owner is None else owner.pid
    fields: dict[str, Any] = {} if pid is None or pid <= 0 else {"LOCKD_OWNER_PID": pid}
    if owner is not None:
        fields |= {"LOCKD_OWNER_NAME": owner.details.name, "LOCKD_OWNER_UUID": str(owner.details.uuid)}
    return fields
