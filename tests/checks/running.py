"""Runs of pytest on a few lines, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

PROJECT = Path(__file__).parents[2]


def run_pytest(
    folder: Path, source: str, *options: str, plugin: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a module of tests with one of the project's plugins.

    :param folder: an empty directory.
    :param source: the module.
    :param options: of pytest.
    :param plugin: the plugin's module.
    :param environment: what is set in the environment; CI is not, unless it is here.
    :returns: the exit status and the output.
    """
    (folder / "test_module.py").write_text(dedent(source))
    kept = {name: value for name, value in os.environ.items() if name != "CI" and "PYTEST" not in name}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            plugin,
            f"--rootdir={folder}",
            f"--basetemp={folder}/t",
            *options,
        ],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
