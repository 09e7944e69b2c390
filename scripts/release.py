"""Make a release: the version, the changelog, the files to publish in dist/, a commit and a tag.

Nothing is published. docs/releasing.md describes what to do before and after.
"""

import re
import subprocess
import sys
from pathlib import Path

from scripts import check_news

_VERSION = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}")


class CannotReleaseError(Exception):
    """The release cannot be made; the text says why."""


def check(project: Path, version: str) -> None:
    """Check that a release can be made.

    :param project: the git work tree.
    :param version: its version.
    :raises CannotReleaseError: it cannot.
    """
    if not _VERSION.fullmatch(version):
        raise CannotReleaseError(f"{version!r} is not a version such as 1.2.3")
    if _run(project, "git", "tag", "--list", f"v{version}"):
        raise CannotReleaseError(f"the tag v{version} exists already")
    if changes := _run(project, "git", "status", "--porcelain"):
        raise CannotReleaseError(f"commit these first, or remove them:\n{changes}")
    if not check_news.fragments(project):
        raise CannotReleaseError("there is nothing new in changes/")
    if check_news.main(project) != 0:
        raise CannotReleaseError("changes/ is not in order")


def write(project: Path, version: str) -> None:
    """Write the version and the changelog.

    :param project: the git work tree.
    :param version: the version.
    """
    module = project / "lockd" / "__init__.py"
    module.write_text(re.sub(r'(?m)^(__version__ = )".*"$', rf'\1"{version}"', module.read_text()))
    _run(project, sys.executable, "-m", "towncrier", "build", "--yes", "--version", version)


def build(project: Path) -> list[Path]:
    """Make the source distribution, and from it alone the wheel.

    :param project: the git work tree.
    :returns: both files.
    """
    dist = project / "dist"
    for old in dist.glob("lockd-*"):
        old.unlink()
    _run(project, sys.executable, "-m", "hatchling", "build", "--target", "sdist")
    (source,) = dist.glob("lockd-*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    _run(project, *pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(dist), str(source))
    (wheel,) = dist.glob("lockd-*.whl")
    return [source, wheel]


def main(project: Path, version: str) -> int:
    """Make a release, or leave everything as it was.

    :param project: the git work tree.
    :param version: the version, such as 1.2.3.
    :returns: the exit status.
    """
    try:
        check(project, version)
    except CannotReleaseError as error:
        print(f"no release: {error}", file=sys.stderr)
        return 1
    try:
        write(project, version)
        files = build(project)
        _run(project, "git", "add", "--all", "lockd/__init__.py", "CHANGELOG.md", "changes")
        _run(project, "git", "commit", "--quiet", "--message", f"Release {version}")
        _run(project, "git", "tag", "--annotate", "--message", f"lockd {version}", f"v{version}")
    except subprocess.CalledProcessError as error:
        _run(project, "git", "reset", "--quiet", "--hard", "HEAD")
        print(f"no release: {error}\n{error.stdout}", file=sys.stderr)
        return 1
    print(f"released {version}: commit, tag v{version}, and")
    print(*(f"  {file.relative_to(project)}" for file in files), sep="\n")
    print("next: see docs/releasing.md")
    return 0


def _run(project: Path, *command: str) -> str:
    done = subprocess.run(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make release VERSION=1.2.3")
    sys.exit(main(Path(__file__).resolve().parents[1], sys.argv[1]))
