"""A lease in the XML of a guest: libvirt acquires it in a lockspace that it does not make itself."""

from collections.abc import Iterator

import pytest

from tests.kernel_locks import KernelLock, locks_on
from tests.libvirt.conftest import new_host
from tests.libvirt.host import Host
from tests.waiting import wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host() as host:
        host.install("lockd")
        yield host


def test_a_guest_with_a_lease_starts_if_the_configuration_names_its_lockspace(host: Host) -> None:
    target = host.images / "leases"
    leases = target / "guests"
    definition = host.images / "leasing.xml"
    definition.write_text(f"""
        <domain type='qemu'>
          <name>leasing</name><memory unit='MiB'>32</memory>
          <os><type arch='x86_64' machine='pc'>hvm</type></os>
          <devices>
            <lease><lockspace>guests</lockspace><key>key</key><target path='{target}'/></lease>
            <memballoon model='none'/>
          </devices>
        </domain>""")
    host.start_lock_daemon()
    host.start_libvirtd()
    refused = host.virsh("create", str(definition), check=False)
    assert f"Lockspace for path {leases} does not exist" in refused.stderr

    host.stop_lock_daemon()
    configuration = host.configuration / "virtlockd.conf"
    configuration.write_text(f'lockspaces = [ "{leases}" ]\n{configuration.read_text()}')
    pid = host.start_lock_daemon()
    (leases / "key").touch()
    host.virsh("create", str(definition))
    assert locks_on(leases / "key") == [KernelLock("WRITE", pid)]
    host.virsh("destroy", "leasing")
    wait_until(lambda: locks_on(leases / "key") == [], "the release of the lease")
