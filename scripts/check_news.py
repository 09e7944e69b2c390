"""Check the files in changes/: their form, and that there is a new one if the program has changed.

The program is compared with the last release: the latest commit that added a heading such as ``## [1.2.3]`` to
CHANGELOG.md. Before the first release it is the commit that introduced changes/. Tags are not needed, and so a clone
without them is checked as well. In a shallow clone that ends before that commit, everything is taken as released.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

PROGRAM = ("lockd", "conf", "systemd")
NOT_FRAGMENTS = {"README.md", "template.md"}
LONGEST = 4

_NAME = re.compile(r"(?:\d+|\+[a-z0-9-]+)\.(?P<type>[a-z]+)(?:\.\d+)?\.md")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_LIST_OR_HEADING = re.compile(r"^\s*(?:[-*#]\s|\d+\. )", re.MULTILINE)


def mistakes(name: str, text: str, types: set[str]) -> list[str]:
    """Check one file.

    :param name: its name, without the directory.
    :param text: what is in it.
    :param types: the types that there are.
    :returns: what is wrong; nothing if the file is well-formed.
    """
    found = []
    match = _NAME.fullmatch(name)
    if match is None:
        found.append("the name must be NUMBER.TYPE.md or +WORDS.TYPE.md")
    elif match["type"] not in types:
        found.append(f"the type {match['type']!r} is none of {', '.join(sorted(types))}")
    sentences = len(_SENTENCE_END.findall(text))
    if not text.strip():
        found.append("it is empty")
    elif not text.rstrip().endswith((".", ")", "`")) or not 1 <= sentences <= LONGEST:
        found.append(f"write one to {LONGEST} sentences; these are {sentences}")
    if _LIST_OR_HEADING.search(text):
        found.append("write plain sentences, without a list or a heading")
    return found


def last_release(project: Path) -> str | None:
    """Find the commit that the program is compared with.

    :param project: a git work tree.
    :returns: the commit's hash, or None if changes/ is not committed yet.
    """
    release = _git(project, "log", "-1", "--format=%H", "-G", r"^## \[[0-9]", "--", "CHANGELOG.md")
    introduced = _git(
        project, "log", "--reverse", "--format=%H", "--diff-filter=A", "--", "changes/README.md"
    )
    return release.strip() or next(iter(introduced.split()), None)


def lacks_news(project: Path) -> bool:
    """Return whether the program has changed since the last release, and no file in changes/ says so.

    :param project: a git work tree.
    :returns: whether a file is missing.
    """
    base = last_release(project)
    if base is None:
        return False
    known = _git(project, "ls-tree", "--name-only", base, "changes/").split()
    changed = _git(project, "diff", "--name-only", base, "--", *PROGRAM)
    new = [file for file in fragments(project) if f"changes/{file.name}" not in known]
    return bool(changed) and not new


def fragments(project: Path) -> list[Path]:
    """List the files for the next release.

    :param project: the project's directory.
    :returns: the paths.
    """
    files = (project / "changes").iterdir()
    return sorted(file for file in files if file.name not in NOT_FRAGMENTS and not file.name.startswith("."))


def main(project: Path) -> int:
    """Check a project, and print what is wrong.

    :param project: the project's directory.
    :returns: the exit status: 1 if something is wrong.
    """
    settings = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["towncrier"]
    types = {each["directory"] for each in settings["type"]}
    found = [
        f"changes/{file.name}: {mistake}"
        for file in fragments(project)
        for mistake in mistakes(file.name, file.read_text(), types)
    ]
    if lacks_news(project):
        found.append("the program has changed since the last release: add a file, see changes/README.md")
    for mistake in found:
        print(mistake, file=sys.stderr)
    return 1 if found else 0


def _git(project: Path, *arguments: str) -> str:
    # The clone may belong to another user, as that of continuous integration does.
    command = ["git", "-c", f"safe.directory={project}", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parents[1]))
