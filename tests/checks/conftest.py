"""Scratch copies of the project, with a history of their own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checks.running import PROJECT


class Clone:
    """A git work tree of the project as it is now, in one commit."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        listed = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in filter(None, self._git(PROJECT, *listed).split("\0")):
            if (PROJECT / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / name, directory / name)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "Somebody")
        self.git("config", "user.email", "somebody@example.org")
        self.commit()

    def git(self, *arguments: str) -> str:
        return self._git(self.directory, *arguments)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "Something")

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a module of the clone's own scripts."""
        return subprocess.run(
            [sys.executable, "-m", f"scripts.{script}", *arguments],
            cwd=self.directory,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    @staticmethod
    def _git(directory: Path, *arguments: str) -> str:
        command = ["git", "-c", f"safe.directory={directory}", *arguments]
        return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    directory = tmp_path / "clone"
    directory.mkdir()
    return Clone(directory)
