"""Import lockd's modules from their source, even if compiled ones are beside it (pyproject.toml lists them).

Compiled code behaves the same, but the hooks of the interpreter, such as sys.settrace, do not see its steps.
As a pytest plugin (``-p tests.uncompiled``) this module makes pytest run all tests on the source.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

PACKAGE = "lockd."
PROJECT = Path(__file__).parents[1]


class SourceFinder(MetaPathFinder):
    """Import finder for lockd's modules that finds only their source."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        source = PROJECT.joinpath(*fullname.split(".")).with_suffix(".py")
        if not fullname.startswith(PACKAGE) or not source.exists():
            return None
        return spec_from_file_location(fullname, source, loader=SourceFileLoader(fullname, str(source)))


@contextmanager
def uncompiled() -> Iterator[None]:
    """Import lockd's modules from their source within the context; at its end restore the earlier modules."""
    present = {name: module for name, module in sys.modules.items() if name.startswith(PACKAGE)}
    finder = SourceFinder()
    sys.meta_path.insert(0, finder)
    for name in present:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
            del sys.modules[name]
        sys.modules.update(present)
        for name, module in present.items():
            parent, _, child = name.rpartition(".")
            setattr(sys.modules[parent], child, module)


def pytest_configure() -> None:
    """Import lockd from its source from now on."""
    sys.meta_path.insert(0, SourceFinder())
