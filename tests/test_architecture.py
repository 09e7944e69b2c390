"""Who may import whom, as docs/design.md says."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import lockd
from tests.uncompiled import uncompiled

PACKAGE = Path(lockd.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

ROOMS = {
    "linux": set[str](),
    "libvirt": set[str](),
    "wire": set[str](),
    "locks": set[str](),
    "engines": {"linux", "locks"},
    "daemon": {"linux", "libvirt", "wire", "locks", "engines"},
    "client": {"linux", "libvirt", "wire"},
    "ctl": {"linux", "libvirt", "client"},
}
"""Each room, and those that it may import from, beside itself."""

LOWEST_ROOMS = [room for room, below in ROOMS.items() if not below]

DAEMON_ROOMS = {"start": set[str](), "log": {"start"}, "programs": {"log"}, "upgrade": {"start"}}
"""The daemon's own rooms, and those that each may import from, beside itself and the modules at the daemon's top."""

OUTSIDE_THE_DAEMON = {
    "start": {"linux", "libvirt"},
    "log": {"engines", "linux"},
    "programs": {"linux", "wire", "locks"},
    "upgrade": {"linux", "libvirt", "wire", "locks", "engines"},
}
"""What each of the daemon's rooms may import from outside the daemon."""

ASSEMBLY = {
    "lockd.daemon.daemon": {"lockd.daemon.main", "lockd.daemon.upgrade"},
    "lockd.daemon.main": {"lockd.daemon.command"},
}
"""The daemon's modules that put all the others together, and the modules and rooms that may import them."""

USERS_OF_FILES = {
    "lockd.daemon.daemon",
    "lockd.daemon.log.log",
    "lockd.daemon.log.sinks",
    "lockd.daemon.log.slow_file",
    "lockd.daemon.main",
    "lockd.daemon.mount_watch",
    "lockd.daemon.upgrade.leftovers",
}
"""The daemon's modules that know the engine of files. All others know the contract of an engine."""

REFERRING_TO_EACH_OTHER = ("lockd.locks.engine", "lockd.locks.resource")
"""The only modules that import each other, one of them for types only. It cannot be avoided: a resource has its engine,
and the methods of an engine take a resource. The two types are one contract."""

PROGRAMS = {
    "linux": set[str](),
    "libvirt": set[str](),
    "wire": {"xdrlib3"},
    "locks": set[str](),
    "engines": set[str](),
    "daemon": {"trio", "systemd"},
    "client": {"trio", "cryptography"},
    "ctl": set[str](),
}
"""The distributions that each room may import. There are no others at run time."""

PURE = {
    "__future__",
    "abc",
    "collections",
    "collections.abc",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "operator",
    "typing",
}
"""Modules of the standard library that make no system call, and are enough for bookkeeping."""

SYSTEM = {
    "asyncio", "ctypes", "datetime", "fcntl", "glob", "grp", "io", "logging", "mmap", "multiprocessing", "os",
    "pathlib", "posix", "pwd", "random", "resource", "secrets", "select", "selectors", "shutil", "signal", "socket",
    "ssl", "subprocess", "syslog", "tempfile", "termios", "threading", "time",
}  # fmt: skip
"""Modules of the standard library that make system calls, or that ask for the time."""

SYSTEM_FUNCTIONS = {"open", "print", "input", "breakpoint", "exec", "eval", "compile", "__import__"}
"""Built-in functions that make system calls, or that could be used to hide one."""


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0]


def name_of(module: Path) -> str:
    return ".".join(module.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(module: Path, *, at_run_time: bool = False) -> Iterator[str]:
    """Return the full names of all modules that a module imports, wherever in it."""
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
    """Return the names of all modules that are loaded after a statement, in an interpreter of its own."""
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


def test_no_engine_imports_another() -> None:
    strangers = {
        f"{name_of(module)} imports {name}"
        for engine in (path for path in (PACKAGE / "engines").iterdir() if path.is_dir())
        for module in engine.rglob("*.py")
        for name in imported(module)
        if name.startswith("lockd.engines.") and name.split(".")[2] != engine.name
    }
    assert not strangers


def test_every_module_of_the_daemon_is_at_its_top_or_in_a_room() -> None:
    rooms = {path.name for path in (PACKAGE / "daemon").iterdir() if list(path.glob("*.py"))}
    assert rooms == set(DAEMON_ROOMS) == set(OUTSIDE_THE_DAEMON)


@pytest.mark.parametrize("room", ["", *DAEMON_ROOMS])
def test_a_room_of_the_daemon_imports_from_those_below_it_alone(room: str) -> None:
    """The modules at the top, here without a name, are below all rooms."""
    forbidden = set(DAEMON_ROOMS) - {room} - DAEMON_ROOMS.get(room, set())
    strangers = {
        f"{name_of(module)} imports {name}"
        for module in (PACKAGE / "daemon" / room).glob("*.py")
        if name_of(module) not in ASSEMBLY
        for name in imported(module)
        if name.startswith("lockd.daemon.") and name.split(".")[2] in forbidden
    }
    assert not strangers


@pytest.mark.parametrize("room", OUTSIDE_THE_DAEMON)
def test_a_room_of_the_daemon_imports_what_it_needs_from_outside_alone(room: str) -> None:
    allowed = {"daemon", "__version__", *OUTSIDE_THE_DAEMON[room]}
    strangers = {
        f"{name_of(module)} imports {name}"
        for module in (PACKAGE / "daemon" / room).glob("*.py")
        for name in imported(module)
        if name.startswith("lockd.") and name.split(".")[1] not in allowed
    }
    assert not strangers


@pytest.mark.parametrize("assembly", ASSEMBLY)
def test_what_is_assembled_does_not_import_the_assembly(assembly: str) -> None:
    importers = {name_of(module) for module in MODULES if assembly in imported(module)}
    strangers = {
        importer for importer in importers if not {importer, importer.rpartition(".")[0]} & ASSEMBLY[assembly]
    }
    assert importers
    assert not strangers


def test_few_modules_of_the_daemon_know_the_engine_of_files() -> None:
    users = {
        name_of(module)
        for module in (PACKAGE / "daemon").rglob("*.py")
        if any(name.startswith("lockd.engines") for name in imported(module))
    }
    assert users == USERS_OF_FILES


def test_the_page_about_engines_names_each_of_their_methods() -> None:
    with uncompiled():
        from lockd.locks.engine import Engine
    page = (PACKAGE.parent / "docs" / "design.md").read_text(encoding="utf-8")
    table = page.partition("| methods | purpose |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^ *\| (`.*?) \|", table, re.MULTILINE)))
    assert sorted(named) == sorted(name for name in vars(Engine) if not name.startswith("_"))


def circle(imports: Mapping[str, set[str]]) -> list[str] | None:
    """Return the modules of an import circle, or None."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


def test_no_import_goes_in_a_circle() -> None:
    """Imports for the type checker count too, but for two modules whose types refer to each other."""
    names = {name_of(module) for module in MODULES}
    imports = {name_of(module): names.intersection(imported(module)) for module in MODULES}
    engine, resource = REFERRING_TO_EACH_OTHER
    assert engine in imports[resource]
    assert resource in imports[engine], "the exception is not needed any more"
    imports[engine].remove(resource)
    assert circle(imports) is None


def test_no_import_at_run_time_goes_in_a_circle() -> None:
    names = {name_of(module) for module in MODULES}
    imports = {name_of(module): names.intersection(imported(module, at_run_time=True)) for module in MODULES}
    assert circle(imports) is None


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_depends_on_what_it_needs_alone(room: str) -> None:
    """Imports for the type checker do not count."""
    allowed = {"lockd", *sys.stdlib_module_names, *PROGRAMS[room]}
    strangers = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in (PACKAGE / room).rglob("*.py")
        for name in imported(module, at_run_time=True)
        if name.partition(".")[0] not in allowed
    }
    assert not strangers


@pytest.mark.parametrize("room", LOWEST_ROOMS)
def test_a_lowest_room_loads_no_other_room_and_no_trio(room: str) -> None:
    modules = [name_of(module) for module in (PACKAGE / room).rglob("*.py")]
    loaded = loaded_by(f"import {', '.join(modules)}")
    assert set(modules) <= loaded
    assert not {name for name in loaded if name.startswith("lockd.")} - set(modules)
    strange = {"trio", "cryptography", "asyncio"}
    if room != "linux":
        strange.add("socket")
    assert not loaded & strange


# Bookkeeping and encoding


@pytest.mark.parametrize("room", ["wire", "locks"])
def test_wire_and_locks_make_no_system_calls(room: str) -> None:
    for module in (PACKAGE / room).rglob("*.py"):
        assert not {name for name in imported(module) if name.partition(".")[0] in SYSTEM}, module
        names = {node.id for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Name)}
        assert not names & SYSTEM_FUNCTIONS, module


def test_locks_imports_nothing_but_what_bookkeeping_needs() -> None:
    strangers = {
        f"{module.relative_to(PACKAGE)} imports {node}"
        for module in (PACKAGE / "locks").rglob("*.py")
        for node in modules_imported(module)
        if not node.startswith("lockd.locks") and node not in PURE
    }
    assert not strangers


def modules_imported(module: Path) -> Iterator[str]:
    """Return the modules that a module imports, or imports names from."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            yield node.module


def test_the_lock_table_makes_no_system_call() -> None:
    """All its methods are called here, with an engine that keeps its locks in memory."""
    with uncompiled():
        from lockd.locks.engine import Engine, Hold
        from lockd.locks.errors import LockError
        from lockd.locks.resource import Resource
        from lockd.locks.table import LockTable

    class InMemory(Engine):
        def path_of(self, lockspace: str, name: str) -> str:
            return f"{lockspace}/{name}"

        def take(self, resource: Resource) -> Hold:
            return Hold()

    engine = InMemory()

    def use(table: LockTable) -> None:
        table.add_lockspace("/leases")
        for owner in (1, 2):
            for name, shared in (("x", True), ("y", False)):
                try:
                    resource = table.reserve("/leases", name, owner, 0.0, shared=shared, autocreate=True)
                except LockError:
                    continue
                if resource is not None:
                    assert resource.engine is engine
                    table.grant(resource, engine.take(resource))
        for refused in (
            lambda: table.check_new_lockspace(""),
            lambda: table.check_new_lockspace("/leases"),
            lambda: table.check_free("/leases", "x"),
            lambda: table.check_free("/unknown", "x"),
            lambda: table.end_holding("/leases", "x", 3),
            lambda: table.end_holding("/leases", "z", 1),
        ):
            with pytest.raises(LockError):
                refused()
        table.check_free("/leases", "z")
        adopted = Resource("/old", "x", "/old/x", table.engine_of("/old"), 0.0, True, False)
        table.adopt(adopted, [1, 3], Hold())
        table.add_owners(adopted, [3, 5])
        table.replace_owners({5: {4}})
        assert not table.end_holdings_of(adopted, 4)
        assert (len(table), len(list(table)), table.lockspaces) == (3, 3, ["/leases", "/old"])
        assert table.find("/old", "x") is adopted
        assert table.end_holding("/leases", "x", 2) is None
        for owner, held, ended in ((1, 3, 2), (2, 0, 0), (3, 1, 1)):
            assert len(table.holdings(owner)) == held
            resources = table.end_holdings(owner)
            assert len(resources) == ended
            for resource in resources:
                table.forget(resource)
        assert len(table) == 0

    made = functions_called(lambda: use(LockTable(engine)))
    public = {name for name in vars(LockTable) if not name.startswith("_")}
    assert {f"LockTable.{name}" for name in public} <= {name for name, _ in made}
    assert not {call for call in made if call[1].partition(".")[0] in SYSTEM | {"_io", "_thread", "_socket"}}


def test_a_system_call_would_be_seen() -> None:
    """This is how the test before would see it."""
    import os
    import time

    assert functions_called(os.getpid) >= {("getpid", "posix")}
    assert functions_called(time.time) >= {("time", "time")}
    opened = functions_called(lambda: open(os.devnull).close())
    assert opened & {("open", "io"), ("open", "_io")}


def functions_called(run: Callable[[], object]) -> set[tuple[str, str]]:
    """Return the functions that a call goes through, by their names and modules, in Python and in C."""
    called = set()

    def on_event(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            called.add((frame.f_code.co_qualname, frame.f_globals["__name__"]))
        elif event == "c_call":
            called.add((argument.__name__, getattr(argument, "__module__", None) or "builtins"))

    sys.setprofile(on_event)
    try:
        run()
    finally:
        sys.setprofile(None)
    return called


# What a daemon loads


def test_a_daemon_loads_the_engine_of_files_alone() -> None:
    """Another engine, and what it needs, is loaded only by a daemon that is configured to use it."""
    loaded = {name for name in loaded_by("import lockd.daemon.main") if name.startswith("lockd.engines.")}
    assert "lockd.engines.files.engine" in loaded
    assert not {name for name in loaded if name.split(".")[2] != "files"}
    assert "h11" not in loaded_by("import lockd.daemon.main")


def test_the_daemon_never_loads_cryptography() -> None:
    """A root daemon has no use for it, and it takes time and memory."""
    loaded = loaded_by("import lockd.daemon.main")
    assert "lockd.daemon.daemon" in loaded
    assert not {name for name in loaded if name.partition(".")[0] in {"cryptography", "_cffi_backend"}}
    assert not {name for name in loaded if name.startswith(("lockd.client", "lockd.ctl"))}
