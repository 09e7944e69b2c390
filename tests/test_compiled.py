"""The modules that every acquire goes through are compiled (pyproject.toml names them). Their source runs too."""

import ast
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
BUILD = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
SOURCES = [PROJECT / name.lstrip("/") for name in BUILD["targets"]["wheel"]["hooks"]["mypyc"]["include"]]


def name_of(source: Path) -> str:
    return ".".join(source.relative_to(PROJECT).with_suffix("").parts)


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_what_runs_here_is_compiled(source: Path) -> None:
    """The tests run what users run."""
    module = import_module(name_of(source))
    assert module.__file__ is not None
    assert module.__file__.endswith(".so")


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_an_exception_s_name_is_used_for_one_type_in_a_function(source: Path) -> None:
    """A compiled function checks all of them for the type of the first one, which mypy does not report."""
    for function in ast.walk(ast.parse(source.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            handlers = [
                node for node in ast.walk(function) if isinstance(node, ast.ExceptHandler) and node.name
            ]
            types = {(handler.name, ast.unparse(handler.type)) for handler in handlers if handler.type}
            assert len(types) == len({name for name, _ in types}), function.name


def test_the_source_does_the_same() -> None:
    """It is what runs if nobody can compile, and under tools that look into the interpreter's steps."""
    rooms = ["tests/wire", "tests/linux", "tests/locks", "tests/engines"]
    command = [sys.executable, "-m", "pytest", "--quiet", "-p", "tests.uncompiled", *rooms]
    run = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout
