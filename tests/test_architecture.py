"""Who may import whom: the lines of docs/design.md, held by the imports themselves."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lockd

PACKAGE = Path(lockd.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

ROOMS = {
    "wire": set[str](),
    "locks": set[str](),
    "daemon": {"wire", "locks"},
    "client": {"wire"},
    "ctl": {"client"},
}
"""Each room, and those it may import from beside itself."""

DAEMON_ROOMS = {
    "start": set[str](),
    "log": {"start"},
    "programs": {"log"},
    "upgrade": {"start"},
}
"""The daemon's own rooms, and those they may import from beside themselves and the modules at its top."""

ASSEMBLY = {"lockd.daemon.daemon", "lockd.daemon.main"}
"""The daemon's modules that put all the others together, rooms and all."""

PROGRAMS = {
    "wire": {"xdrlib3"},
    "locks": set[str](),
    "daemon": {"trio", "systemd"},
    "client": {"trio", "cryptography"},
    "ctl": {"trio"},
}
"""The distributions that each room may import: at run time there are no others."""


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0]


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(module: Path, *, at_run_time: bool = False) -> Iterator[str]:
    """The full names of all modules that a module imports, wherever in it."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    if at_run_time:
        tree.body = [node for node in tree.body if not is_for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def loaded_by(statement: str) -> set[str]:
    """The names of all modules that are there after a statement, in an interpreter of its own."""
    program = f"{statement}; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_every_module_is_in_a_room() -> None:
    assert {room_of(module) for module in MODULES} == {*ROOMS, "__init__.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_the_rooms_below_it_alone(room: str) -> None:
    allowed = {room, "__version__", *ROOMS[room]}
    strangers = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in (PACKAGE / room).rglob("*.py")
        for name in imported(module)
        if name.startswith("lockd.") and name.split(".")[1] not in allowed
    }
    assert not strangers


def test_every_module_of_the_daemon_is_at_its_top_or_in_a_room() -> None:
    rooms = {path.name for path in (PACKAGE / "daemon").iterdir() if list(path.glob("*.py"))}
    assert rooms == set(DAEMON_ROOMS)


@pytest.mark.parametrize("room", ["", *DAEMON_ROOMS])
def test_a_room_of_the_daemon_imports_from_those_below_it_alone(room: str) -> None:
    """The top, here without a name, is below them all."""
    forbidden = set(DAEMON_ROOMS) - {room} - DAEMON_ROOMS.get(room, set())
    strangers = {
        f"{name_of(module)} imports {name}"
        for module in (PACKAGE / "daemon" / room).glob("*.py")
        if name_of(module) not in ASSEMBLY
        for name in imported(module)
        if name.startswith("lockd.daemon.") and name.split(".")[2] in forbidden
    }
    assert not strangers


def test_no_import_goes_in_a_circle() -> None:
    """What only the type checker reads aside."""
    names = {name_of(module) for module in MODULES}
    imports = {name_of(module): names.intersection(imported(module, at_run_time=True)) for module in MODULES}
    TopologicalSorter(imports).prepare()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_depends_on_what_it_needs_alone(room: str) -> None:
    """What only the type checker reads aside."""
    allowed = {"lockd", *sys.stdlib_module_names, *PROGRAMS[room]}
    strangers = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in (PACKAGE / room).rglob("*.py")
        for name in imported(module, at_run_time=True)
        if name.partition(".")[0] not in allowed
    }
    assert not strangers


@pytest.mark.parametrize("room", ["wire", "locks"])
def test_wire_and_locks_load_neither_each_other_nor_trio(room: str) -> None:
    other = {"wire": "locks", "locks": "wire"}[room]
    modules = [name_of(module) for module in (PACKAGE / room).rglob("*.py")]
    loaded = loaded_by(f"import {', '.join(modules)}")
    assert set(modules) <= loaded
    strange = {"trio", "cryptography", "socket", "asyncio"}
    assert not {name for name in loaded if name.startswith(f"lockd.{other}") or name in strange}


def test_the_daemon_never_loads_cryptography() -> None:
    """A root daemon has no use for it, and it takes its time and memory."""
    loaded = loaded_by("import lockd.daemon.main")
    assert "lockd.daemon.daemon" in loaded
    assert not {name for name in loaded if name.partition(".")[0] in {"cryptography", "_cffi_backend"}}
    assert not {name for name in loaded if name.startswith(("lockd.client", "lockd.ctl"))}
