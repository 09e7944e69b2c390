"""lockctl's command line: help texts, wrong usage, manual page and shell completions."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lockd import __version__
from lockd.ctl.exits import Exit
from lockd.ctl.parser import COMMANDS
from tests.ctl.conftest import LOCKCTL
from tests.private_daemon import LOCKD

PROJECT = Path(__file__).parents[2]
MANUAL = (PROJECT / "docs" / "man" / "lockctl.1.rst").read_text()


def lockctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | {"COLUMNS": "80"}
    return subprocess.run([LOCKCTL, *arguments], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_with_an_example(command: str) -> None:
    help_text = lockctl(command, "--help").stdout
    assert help_text.startswith(f"usage: lockctl {command} ")
    _, found, example = help_text.partition("\nexample")
    assert found
    assert f"\n  {'coproc ' if command == 'acquire' else ''}lockctl {command}" in example


def test_the_help_names_every_command() -> None:
    help_text = lockctl("--help").stdout
    assert re.findall(r"^    (\w+) ", help_text, re.MULTILINE) == list(COMMANDS)
    assert lockctl("--version").stdout == f"lockctl (lockd) {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [(), ("unknown",), ("who",), ("status", "--jso"), ("run", "--", "true")]
)
def test_wrong_usage_ends_with_2_and_no_traceback(arguments: tuple[str, ...]) -> None:
    done = lockctl(*arguments)
    assert done.returncode == Exit.USAGE
    assert done.stderr.startswith("usage: lockctl")
    assert "Traceback" not in done.stderr


def test_the_manual_names_every_command_option_and_exit_status() -> None:
    for command in COMMANDS:
        assert re.search(rf"^{command}\b", MANUAL, re.MULTILINE), command
        help_text = lockctl(command, "--help").stdout
        for option in set(re.findall(r"--[a-z-]+", help_text.partition("example")[0])) - {"--help"}:
            assert f"**{option}**" in MANUAL, f"{command} {option}"
    for status in Exit:
        assert re.search(rf"^{int(status)}$", MANUAL, re.MULTILINE), status


def completions(shell: str) -> str:
    script = [sys.executable, str(PROJECT / "scripts" / "completions"), shell]
    return subprocess.run(script, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lockctl", "re"], {"resource", "release"}),
        (["lockctl", "status", "--no"], {"--noheadings", "--notruncate"}),
        (["lockctl", "clean", "--dry"], {"--dry-run"}),
        (["lockctl", "who", "./pyproj"], {"./pyproject.toml"}),
        (["lockctl", "lockspace", "a"], {"add"}),
        (["lockctl", "lockspace", "add", "./con"], {"./conf"}),
    ],
)
def test_bash_completes(words: list[str], expected: set[str], tmp_path: Path) -> None:
    script = tmp_path / "lockctl"
    script.write_text(completions("bash"))
    program = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_lockctl; echo "${COMPREPLY[@]}"'
    run = ["bash", "-c", program, "bash", str(script), *words]
    done = subprocess.run(run, capture_output=True, text=True, cwd=PROJECT, check=True)
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_know_every_command_and_can_read_the_script(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "lockctl"
    script.write_text(completions(shell))
    assert all(command in script.read_text() for command in COMMANDS)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not there to read the script")
    subprocess.run([shell, "-n", str(script)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_user_without_a_home_directory_is_told_so_in_one_line() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, sys; os.setgid(4000001); os.setuid(4000001); os.execve(sys.argv[1], sys.argv[1:], {})",
            LOCKCTL,
            "status",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == Exit.FAILED
    (line,) = done.stderr.splitlines()
    assert line.startswith("lockctl: user 4000001 has no home directory; set HOME or XDG_RUNTIME_DIR")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("program", [LOCKCTL, LOCKD])
def test_no_argument_that_is_refused_commands_the_terminal(program: Path, locale: str) -> None:
    for arguments in (
        ["\x1b[31m\udcff"],
        ["--\x9b\n\u202e"],
        ["check", "\x1b[31m"],
        ["--timeout", "\x1b[31m"],
    ):
        done = subprocess.run(
            [program, *arguments], capture_output=True, env={**os.environ, "LC_ALL": locale}, check=False
        )
        assert done.returncode == Exit.USAGE
        lines = done.stderr.decode().removesuffix("\n").split("\n")
        assert "error: " in lines[-1]
        assert all(map(str.isprintable, lines)), lines
