"""The configuration files that are installed state the true defaults."""

import re
from pathlib import Path

import pytest

from lockd.client.plugin_config import PluginConfig, read_plugin_config
from lockd.daemon.log.settings import settings_at_start
from lockd.daemon.start.config import Config, read_config
from tests.private_daemon import VIRTLOCKD, private_daemon

_DIRECTORY = Path(__file__).parents[1] / "conf"


def _all_set(name: str, directory: Path) -> Path:
    """Return a copy of a configuration file in which every setting that is commented out is active."""
    copy = directory / name
    copy.write_text(re.sub(r"^#(?=\w+ = )", "", (_DIRECTORY / name).read_text(), flags=re.MULTILINE))
    return copy


def _keys(file: Path) -> list[str]:
    return re.findall(r"^(\w+) = ", file.read_text(), re.MULTILINE)


def test_virtlockd_conf_changes_nothing_as_it_is() -> None:
    assert read_config(_DIRECTORY / "virtlockd.conf", required=True) == Config()


def test_virtlockd_conf_shows_every_setting_with_its_default(tmp_path: Path) -> None:
    file = _all_set("virtlockd.conf", tmp_path)
    config = read_config(file, required=True)
    assert sorted(_keys(file)) == sorted(vars(Config()))
    assert (config.max_clients, config.admin_max_clients) == (
        Config().max_clients,
        Config().admin_max_clients,
    )
    shown, default = (
        settings_at_start(settings, file, {}, lambda: None, verbose=False, background=False)
        for settings in (config, Config())
    )
    assert shown == default


@pytest.mark.skipif(not VIRTLOCKD.exists(), reason="virtlockd is not installed")
def test_libvirts_daemon_reads_virtlockd_conf_too(tmp_path: Path) -> None:
    settings = _all_set("virtlockd.conf", tmp_path).read_text()
    with private_daemon(tmp_path / "daemon", VIRTLOCKD, settings=settings) as daemon:
        assert daemon.serves()


def test_qemu_lockd_conf_changes_nothing_as_it_is() -> None:
    assert read_plugin_config(_DIRECTORY / "qemu-lockd.conf") == PluginConfig()


def test_qemu_lockd_conf_shows_every_setting(tmp_path: Path) -> None:
    file = _all_set("qemu-lockd.conf", tmp_path)
    config = read_plugin_config(file)
    assert sorted(_keys(file)) == sorted(PluginConfig._fields)
    assert config[:2] == PluginConfig()[:2]
    # By default there is no directory. The file shows three different ones as examples.
    assert len(config.lockspaces) == 3
