"""Each command of virt-admin has the same outcome with lockd as with the real virtlockd."""

import shlex

import pytest

from tests.admin.conftest import Side
from tests.admin.virt_admin import need_virt_admin, virt_admin

# Both daemons get these commands in this order: later commands show what earlier ones have set.
COMMANDS = """
version
uri
srv-threadpool-info admin
srv-threadpool-info --server virtlockd
srv-threadpool-info nobody
srv-threadpool-info
srv-threadpool-set virtlockd --priority-workers 7
srv-threadpool-info virtlockd
srv-threadpool-set virtlockd --priority-workers 0
srv-threadpool-set virtlockd --min-workers 1
srv-threadpool-set virtlockd --max-workers 5
srv-threadpool-set virtlockd --min-workers 1 --max-workers 5
srv-threadpool-set virtlockd --min-workers 0 --max-workers 0 --priority-workers 3
srv-threadpool-set virtlockd --min-workers 3 --max-workers 2
srv-threadpool-set virtlockd --min-workers -1
srv-threadpool-set virtlockd --min-workers x
srv-threadpool-set virtlockd
srv-threadpool-set nobody --priority-workers 1
srv-threadpool-info virtlockd
srv-clients-list admin
srv-clients-list virtlockd
srv-clients-list nobody
srv-clients-list
srv-clients-info admin
srv-clients-info virtlockd
srv-clients-info nobody
srv-clients-set virtlockd --max-clients 2000
srv-clients-info virtlockd
srv-clients-set virtlockd --max-clients 50 --max-unauth-clients 20
srv-clients-info virtlockd
srv-clients-set virtlockd --max-unauth-clients 51
srv-clients-set virtlockd --max-clients 19
srv-clients-set virtlockd --max-clients 20
srv-clients-set virtlockd --max-clients 10 --max-unauth-clients 11
srv-clients-set virtlockd --max-clients 0
srv-clients-set virtlockd --max-clients 4294967295
srv-clients-set virtlockd --max-clients 4294967296
srv-clients-set virtlockd --max-unauth-clients 0
srv-clients-set virtlockd
srv-clients-set nobody --max-clients 5
srv-clients-info virtlockd
srv-clients-set admin --max-clients 7 --max-unauth-clients 7
srv-clients-info admin
client-info virtlockd 2
client-info virtlockd 3
client-info --server virtlockd --client 2
client-info virtlockd 4711
client-info virtlockd 18446744073709551615
client-info virtlockd 18446744073709551616
client-info virtlockd -1
client-info virtlockd x
client-info nobody 2
client-info admin 1
client-info
client-disconnect virtlockd 4711
client-disconnect nobody 2
client-disconnect virtlockd x
client-disconnect virtlockd
client-disconnect
client-disconnect virtlockd 3
client-disconnect virtlockd 3
srv-clients-list virtlockd
srv-update-tls admin
srv-update-tls virtlockd
srv-update-tls nobody
srv-update-tls
daemon-log-filters
daemon-log-filters --filters 1:locking
daemon-log-filters
daemon-log-filters '1:locking 4:object  3:*json*'
daemon-log-filters
daemon-log-filters --filters 5:locking
daemon-log-filters --filters 0:locking
daemon-log-filters --filters locking
daemon-log-filters --filters 1:
daemon-log-filters --filters '4:rpc x'
daemon-log-filters
daemon-log-filters --filters ''
daemon-log-filters
daemon-log-outputs
daemon-log-outputs --outputs 4:stderr
daemon-log-outputs
daemon-log-outputs '4:file:/run/a 3:syslog:somebody 2:journald 1:stderr'
daemon-log-outputs
daemon-log-outputs --outputs 4:file:/run/a
daemon-log-outputs
daemon-log-outputs --outputs 4:file:/run/missing/a
daemon-log-outputs --outputs 4:file:/run
daemon-log-outputs --outputs 4:file
daemon-log-outputs --outputs 4:syslog
daemon-log-outputs --outputs 4:nowhere
daemon-log-outputs --outputs 5:stderr
daemon-log-outputs --outputs x:stderr
daemon-log-outputs --outputs stderr
daemon-log-outputs --outputs 3:stderr:x
daemon-log-outputs --outputs '3:stderr 4:nowhere'
daemon-log-outputs
daemon-log-outputs --outputs ''
daemon-log-outputs
daemon-timeout
daemon-timeout 5
daemon-timeout --timeout 4294967295
daemon-timeout --timeout 4294967296
daemon-timeout --timeout -1
daemon-timeout --timeout x
daemon-timeout --timeout 0
""".strip().splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_the_same_outcome(pair: tuple[Side, Side], command: str) -> None:
    need_virt_admin()
    ours, theirs = (virt_admin(side.daemon, *shlex.split(command)) for side in pair)
    assert ours == theirs


def test_the_servers_are_the_same(pair: tuple[Side, Side]) -> None:
    """The order is not compared: virtlockd's comes from a hash table with a new seed in each process."""
    need_virt_admin()
    outcomes = [virt_admin(side.daemon, "srv-list") for side in pair]
    ours, theirs = (sorted(outcome.output.split()) for outcome in outcomes)
    assert ours == theirs
    assert {"admin", "virtlockd"} < set(ours)
