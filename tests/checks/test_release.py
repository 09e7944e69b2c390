"""``make release``, in a scratch clone."""

import subprocess
import tarfile
import zipfile

import pytest

from scripts import release
from tests.checks.conftest import Clone
from tests.checks.running import PROJECT

UNCOMPILED = {"HATCH_BUILD_NO_HOOKS": "1"}


def test_it_sets_the_version_writes_the_changelog_builds_commits_and_tags(clone: Clone) -> None:
    clone.write("changes/77.fixed.md", "Something works.\n")
    clone.commit()
    before = clone.git("rev-parse", "HEAD")
    done = clone.run("release", "9.8.7", **UNCOMPILED)
    assert done.returncode == 0, done.stderr
    assert clone.git("rev-parse", "HEAD~1") == before
    assert clone.git("log", "-1", "--format=%s") == "Release 9.8.7\n"
    assert clone.git("describe") == "v9.8.7\n"
    assert clone.git("status", "--porcelain") == ""

    changelog = (clone.directory / "CHANGELOG.md").read_text()
    assert "\n## [9.8.7] - 20" in changelog
    # The files that the project has now are in it too.
    fixed = changelog.partition("\n### Fixed\n\n")[2].partition("\n### ")[0]
    assert "- Something works. (#77)\n" in fixed
    left = {file.name for file in (clone.directory / "changes").iterdir()}
    assert left == {"README.md", "template.md"}

    dist = clone.directory / "dist"
    (wheel,) = dist.glob("lockd-9.8.7-*.whl")
    assert 'version__ = "9.8.7"' in zipfile.ZipFile(wheel).read("lockd/__init__.py").decode()
    with tarfile.open(dist / "lockd-9.8.7.tar.gz") as source:
        assert {"lockd-9.8.7/Makefile", "lockd-9.8.7/systemd/system/virtlockd.service"} <= set(
            source.getnames()
        )
    assert clone.run("check_news").returncode == 0


def dirty(clone: Clone) -> None:
    clone.write("README.md", "changed")


def stranger(clone: Clone) -> None:
    clone.write("new", "")


def tagged(clone: Clone) -> None:
    clone.git("tag", "v9.8.7")


def nothing_new(clone: Clone) -> None:
    clone.git("rm", "--quiet", "changes/*.*.md")
    clone.git("checkout", "--quiet", "HEAD", "--", "changes/README.md", "changes/template.md")
    clone.commit()


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (dirty, "commit these first"),
        (stranger, "commit these first"),
        (tagged, "the tag v9.8.7 exists already"),
        (nothing_new, "there is nothing new in changes/"),
    ],
)
def test_it_refuses(clone: Clone, prepare: object, reason: str) -> None:
    assert callable(prepare)
    prepare(clone)
    before = clone.git("rev-parse", "HEAD"), clone.git("status", "--porcelain")
    done = clone.run("release", "9.8.7")
    assert done.returncode == 1
    assert f"no release: {reason}" in done.stderr
    assert (clone.git("rev-parse", "HEAD"), clone.git("status", "--porcelain")) == before


@pytest.mark.parametrize("version", ["1", "1.2", "v1.2.3", "1.2.3rc1", "01.2.3", "1.2.3\n", ""])
def test_it_refuses_a_version_of_another_form(version: str) -> None:
    with pytest.raises(release.CannotReleaseError, match="is not a version such as"):
        release.check(PROJECT, version)


def test_a_failure_leaves_everything_as_it_was(clone: Clone) -> None:
    clone.write("README.md", "")
    (clone.directory / "README.md").unlink()  # pyproject.toml names it
    clone.commit()
    before = clone.git("rev-parse", "HEAD")
    done = clone.run("release", "9.8.7", **UNCOMPILED)
    assert done.returncode == 1
    assert clone.git("rev-parse", "HEAD") == before
    assert clone.git("status", "--porcelain") == ""
    assert clone.git("tag", "--list") == ""


def test_make_passes_the_version_on() -> None:
    make = ["make", "--dry-run", "release", "VERSION=1.2.3"]
    done = subprocess.run(make, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "scripts.release 1.2.3" in done.stdout
