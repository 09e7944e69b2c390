"""The configuration files of libvirt and its daemons, of the user that this process runs as."""

from pathlib import Path

from lockd.client.errors import ClientError
from lockd.wire import conf
from lockd.wire.addresses import own_addresses


class ConfigError(ClientError):
    """A file cannot be read, or something is wrong in it; says the line."""


def path_of(name: str) -> Path:
    """Return the path of a configuration file."""
    return own_addresses().config_directory / name


class Settings:
    """What a file sets. Its methods raise ConfigError where a value is of the wrong kind."""

    def __init__(self, path: Path, values: conf.Conf) -> None:
        self._path = path
        self._values = values

    def number(self, key: str, default: int) -> int:
        """Return a number, 0 or more."""
        try:
            return self._values.number(key, default)
        except conf.ConfError as error:
            raise _config_error(self._path, error) from None

    def boolean(self, key: str, *, default: bool) -> bool:
        """Return a setting that is 0 or 1."""
        try:
            return self._values.boolean(key, default=default)
        except conf.ConfError as error:
            raise _config_error(self._path, error) from None

    def text(self, key: str) -> str | None:
        """Return a text, or None where it is not set."""
        try:
            return self._values.text(key)
        except conf.ConfError as error:
            raise _config_error(self._path, error) from None


def read_settings(path: Path) -> Settings | None:
    """Return what a file sets, or None where it is missing.

    :raises ConfigError: it cannot be read, or does not follow the syntax.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return Settings(path, conf.parse(text))
    except conf.ConfError as error:
        raise _config_error(path, error) from None


def _config_error(path: Path, error: conf.ConfError) -> ConfigError:
    return ConfigError(f"{path}:{error.line}: {error}")
