"""A client that closes its connection while a call hangs releases all other locks at once."""

from pathlib import Path

from tests.client.test_closing import closing, left_locked
from tests.private_daemon import PrivateDaemon
from tests.trouble.hanging_filesystem import HangingFilesystem
from tests.waiting import wait_until


def test_locks_beside_a_call_that_hangs_are_released_by_a_second_connection(
    filesystem: HangingFilesystem, daemon: PrivateDaemon, tmp_path: Path
) -> None:
    disks = [tmp_path / "disk", filesystem.path / "other"]
    for path in disks:
        path.touch()
    filesystem.hang("open")
    with closing("closed_beside_a_call_that_hangs", daemon, disks) as lines:
        first, second = lines
        assert first == "acquire: the daemon does not answer"
        assert second.startswith(
            "close: the daemon does not answer; what it was asked for may stay locked until "
        )
        assert left_locked(daemon, disks[:1]) == []
        filesystem.release_all()
        wait_until(lambda: filesystem.locks() != [], "the call is carried out late")
    wait_until(lambda: filesystem.locks() == [], "the lock ends with the process")
