"""Events: what happens to locks, one line each, with fields that can be filtered in the journal.

``journalctl LOCKD_OWNER_NAME=vm1`` shows all that happened to a guest's locks.
"""

import logging
from typing import Any

from lockd.daemon.interest import interest
from lockd.daemon.owner_process import OwnerProcess
from lockd.daemon.rate_limit import RateLimit
from lockd.locks.resource import Resource

ACQUIRED = "3d3c9a0d5f2d4c0f9e5e4a6b4d1f7a01"
RELEASED = "3d3c9a0d5f2d4c0f9e5e4a6b4d1f7a02"
REFUSED = "3d3c9a0d5f2d4c0f9e5e4a6b4d1f7a03"
FENCED = "3d3c9a0d5f2d4c0f9e5e4a6b4d1f7a04"
TAKEN_OVER = "3d3c9a0d5f2d4c0f9e5e4a6b4d1f7a05"
"""MESSAGE_ID of each kind of event (systemd.journal-fields(7)); made once, for ever."""

_REFUSALS_PER_SECOND = 100

_logger = logging.getLogger(__name__)
_refusals = RateLimit(_logger, "refused locks", _REFUSALS_PER_SECOND)


def look_again() -> None:
    """Take note that the log's levels have changed."""
    interest.in_grants = _logger.isEnabledFor(logging.INFO)


def acquired(resource: Resource, owner: int, process: OwnerProcess | None) -> None:
    """Log that a lock was granted."""
    _log(logging.INFO, ACQUIRED, "%s acquired %s", resource.lockspace, resource.name, owner, process)


def released(resource: Resource, owner: int, process: OwnerProcess | None) -> None:
    """Log that a lock has ended."""
    _log(logging.INFO, RELEASED, "%s released %s", resource.lockspace, resource.name, owner, process)


def refused(lockspace: str, name: str, reason: str, process: OwnerProcess) -> None:
    """Log that a lock was not granted, and why; an error, as it is to virtlockd: some guest does not start."""
    if _refusals.allows():
        _log(logging.ERROR, REFUSED, "%s was refused %s: %s", lockspace, name, process.pid, process, reason)


def taken_over(resource: Resource, owner: int, process: OwnerProcess | None) -> None:
    """Log that a lock was kept through a change of the program."""
    _log(logging.INFO, TAKEN_OVER, "%s keeps %s", resource.lockspace, resource.name, owner, process)


def released_by_force(resource: Resource, owner: int, process: OwnerProcess | None) -> None:
    """Log that an administrator ends the holdings of an owner that is gone."""
    message = "an administrator takes the lock of %s, which is gone, on %s"
    _log(logging.WARNING, RELEASED, message, resource.lockspace, resource.name, owner, process)


def fenced(process: OwnerProcess) -> None:
    """Log that an owner is killed for its locks."""
    _logger.warning(
        "%s dropped its connection while it holds locks: it is killed",
        process.describe(),
        extra={"fields": {"MESSAGE_ID": FENCED, **_owner_fields(process.pid, process)}},
    )


def _log(
    level: int,
    message_id: str,
    message: str,
    lockspace: str,
    name: str,
    owner: int,
    process: OwnerProcess | None,
    *details: str,
) -> None:
    fields = {
        "MESSAGE_ID": message_id,
        "LOCKD_LOCKSPACE": lockspace,
        "LOCKD_RESOURCE": name,
        **_owner_fields(owner, process),
    }
    who = process.describe() if process is not None else f"pid {owner}"
    what = f"{lockspace}/{name}" if lockspace else name
    _logger.log(level, message, who, what, *details, extra={"fields": fields})


def _owner_fields(owner: int, process: OwnerProcess | None) -> dict[str, Any]:
    if process is None:
        return {"LOCKD_OWNER_PID": owner}
    return {
        "LOCKD_OWNER_PID": owner,
        "LOCKD_OWNER_NAME": process.details.name,
        "LOCKD_OWNER_UUID": str(process.details.uuid),
    }
