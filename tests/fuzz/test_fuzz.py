"""Random frames find nothing wrong with lockd; and they find what is wrong with a daemon that has a fault."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.confinement import run_confined
from tests.fuzz.faulty_daemon import FAULTS
from tests.private_daemon import LOCKD
from tests.private_mounts import can_mount

pytestmark = pytest.mark.skipif(
    not can_mount(), reason="the confinement needs root's mount and pid namespaces"
)

FRAMES = os.environ.get("LOCKD_FRAMES", "100000")

_PROJECT = Path(__file__).parents[2]


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    done = subprocess.run(command, cwd=_PROJECT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    return done


def test_random_frames_find_nothing() -> None:
    """LOCKD_FRAMES is the number of frames. If something is found, the last line says how to repeat it."""
    assert fuzz("--frames", FRAMES).returncode == 0


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("dies", "the daemon ended with status 7"),
        ("ends", "the daemon ended with status 0, and nobody has told it to"),
        ("hangs", r"answers after [1-9]\.\d seconds"),
        ("logs an exception", r"Traceback \(most recent call last\):\n.*\nValueError"),
        ("leaks descriptors", r"the daemon has \d+ descriptors, and had \d+: \['/dev/null', '/dev/null',"),
        ("loses a lock", r"only the table has the locks \{\(\d+, \d+\): 'WRITE'\}, only the kernel \{\}"),
        ("kills a guest", r"the process \d+ was killed"),
    ],
)
def test_a_fault_is_found(fault: str, finding: str) -> None:
    faulty = shlex.join([sys.executable, "-m", "tests.fuzz.faulty_daemon", fault, str(LOCKD)])
    done = fuzz("--frames", "3000", "--seed", "5", "--program", faulty)
    assert done.returncode == 1
    assert re.search(finding, done.stdout)
    repeat = shlex.join(
        ["python", "-m", "tests.fuzz", "--frames", "3000", "--seed", "5", "--program", faulty]
    )
    assert done.stdout.endswith(f"{repeat}\n")


def test_each_fault_is_tried() -> None:
    assert set(FAULTS) == {
        "dies",
        "ends",
        "hangs",
        "logs an exception",
        "leaks descriptors",
        "loses a lock",
        "kills a guest",
    }


_CONFINED = """
import os, sys
from pathlib import Path
from tests.fuzz.confinement import confine

scratch = Path(sys.argv[1])
confine(scratch)
(scratch / "file").touch()
assert os.getpid() == 1
assert set(os.listdir("/dev")) == {"null", "zero", "full", "urandom"}
for path in ("/new", "/etc/new", "/run/new", "/tmp/new", "/dev/new", "/proc/sysrq-trigger", "/sys/power/state"):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    except OSError:
        continue
    raise AssertionError(path)
"""


def test_only_the_scratch_tree_can_be_changed(tmp_path: Path) -> None:
    assert run_confined([sys.executable, "-c", _CONFINED, str(tmp_path)]) == 0
    assert list(tmp_path.iterdir()) == []
