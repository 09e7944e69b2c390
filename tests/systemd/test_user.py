"""A user's own lockd service, in a login session."""

import re

import pytest

from tests.systemd.machine import Machine

pytestmark = pytest.mark.system

_SERVE = """
systemctl --user --quiet enable --now virtlockd.socket virtlockd-admin.socket
touch ~/disk
printf 'acquire\\nrelease\\n' |
    python3 /opt/holder.py $XDG_RUNTIME_DIR/libvirt/virtlockd-sock vm1 $(cat /proc/sys/kernel/random/uuid) ~/disk
systemctl --user show --value --property=ActiveState,User,MainPID virtlockd.service
stat --format='%a %U' $XDG_RUNTIME_DIR/libvirt $XDG_RUNTIME_DIR/libvirt/virtlockd-sock
"""


@pytest.fixture
def users(machine: Machine) -> Machine:
    for user in ("alice", "bob"):
        machine.run("useradd", "--create-home", "--shell=/bin/bash", user)
    return machine


def test_first_connection_activates_the_users_own_daemon(users: Machine) -> None:
    answers = users.run_in_login_session("alice", _SERVE).splitlines()
    assert answers[1:4] == ["registered", "held", "released"]
    assert "active" in answers
    assert answers[-2:] == ["700 alice", "600 alice"]
    assert users.main_pid == 0  # The system's own daemon was not started.
    events = users.journal("_SYSTEMD_USER_UNIT=virtlockd.service", "LOCKD_OWNER_NAME=vm1")
    assert [entry["LOCKD_RESOURCE"] for entry in events] == ["/home/alice/disk"] * 2


def test_two_users_never_see_each_others_daemon(users: Machine) -> None:
    users.run_in_login_session("alice", _SERVE)
    alice = users.run("id", "--user", "alice").strip()
    refused = users.run_in_login_session(
        "bob",
        f"python3 /opt/holder.py /run/user/{alice}/libvirt/virtlockd-sock vm1 "
        "$(cat /proc/sys/kernel/random/uuid) ~/disk 2>&1 </dev/null || true",
    )
    assert re.search("PermissionError", refused)
    answers = users.run_in_login_session("bob", _SERVE).splitlines()
    assert answers[-2:] == ["700 bob", "600 bob"]
