"""Follows the changes of the mount table."""

import select

import trio

from lockd.locks.mounts import MOUNTINFO, MountTable


async def follow_mounts(mounts: MountTable) -> None:
    """Keep ``mounts`` as the kernel has it, until cancelled.

    The kernel reports a change as an exceptional condition on the open file (proc(5)), once: to the next poll,
    whoever asks. An epoll descriptor in another one, as the reactor's is in trio's, asks twice for one answer, and
    the news is lost in between. So a thread waits for it. The file stays open: one day there may be no descriptor
    left to open it again.
    """
    with open(MOUNTINFO, "rb", buffering=0) as file:
        thread = trio.CapacityLimiter(1)
        while True:
            # What was mounted since the table was read, or while it was, is reported.
            file.seek(0)
            mounts.refresh(file.readall())
            await trio.to_thread.run_sync(
                _wait_for_change, file.fileno(), limiter=thread, abandon_on_cancel=True
            )


def _wait_for_change(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLPRI)
    poll.poll()
