"""Check that each public function with arguments documents its parameters, its result and its exceptions.

This script runs pydoclint, whose options are in pyproject.toml, and filters its output. No option of pydoclint can
express that the rules in CONTRIBUTING.md do not ask for:

- private functions and classes, special methods, properties, functions within functions, functions without
  arguments, and methods that a public base class of ours documents already: they need a docstring only. What
  their docstrings say must be right nevertheless: a parameter that does not exist is reported for them too;
- exceptions that are not the function's own: a documented exception that some function called by it raises, one
  that is raised again after cleaning up, a class documented by the name of its base class.
"""

import ast
import builtins
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef

_VIOLATION = re.compile(r"(?P<path>.+?):(?P<line>\d+): (?P<code>DOC\d+): (?P<text>.*)")
_RAISED = re.compile(r"in the docstring: \[(?P<documented>.*?)\]\..* in the body: \[(?P<raised>.*?)\]\.")
_HINT = re.compile(r" \(Or could be other formatting issues: \S+ \)\.")
_TOO_MANY = "in the docstring but not in the function signature"

_REDUNDANT = {"DOC101", "DOC102", "DOC501"}
"""Reported together with DOC103 or DOC503, which also name the parameters or exceptions."""

_ALLOWED = {"DOC502"}
"""Documented exceptions that no statement of the function raises: a function that it calls may raise them."""

_NOT_ITS_OWN = {"BaseException", "NotImplementedError"}
"""Raised again after cleaning up; raised by the methods of a base class."""


class Classes:
    """The classes of the checked files, found by their names alone."""

    def __init__(self, trees: list[ast.Module]) -> None:
        nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        self._bases = {node.name: [_last_name(base) for base in node.bases] for node in nodes}
        self._methods = {
            node.name: {item.name for item in node.body if isinstance(item, Function)} for node in nodes
        }

    def ancestors(self, name: str) -> set[str]:
        """Find the direct and indirect base classes, those of Python's built-in exceptions among them.

        :param name: the name of a class.
        :returns: the names of its base classes.
        """
        known = getattr(builtins, name, None)
        found = {each.__name__ for each in known.__mro__[1:]} if isinstance(known, type) else set()
        for base in self._bases.get(name, []):
            found |= {base} | self.ancestors(base)
        return found

    def inherits(self, name: str, method: str) -> bool:
        """Whether a public base class has a method of that name.

        :param name: the name of a class.
        :param method: the name of a method.
        :returns: whether the base class documents the method.
        """
        return any(
            method in self._methods.get(base, ()) for base in self.ancestors(name) if not base.startswith("_")
        )


def must_document(tree: ast.Module, classes: Classes) -> Iterator[int]:
    """Find the functions that the rules are for.

    :param tree: a module.
    :param classes: the classes of all modules.
    :yields: the line of each such function's definition.
    """
    scopes: list[tuple[ast.Module | ast.ClassDef, str]] = [(tree, "")]
    for scope, class_name in scopes:
        for node in ast.iter_child_nodes(scope):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                scopes.append((node, node.name))
            elif isinstance(node, Function) and not (
                node.name.startswith("_")
                or not _has_arguments(node, is_method=bool(class_name))
                or any(
                    _last_name(each) in {"property", "cached_property", "setter"}
                    for each in node.decorator_list
                )
                or classes.inherits(class_name, node.name)
            ):
                yield node.lineno


def matters(code: str, text: str, classes: Classes, *, held: bool) -> bool:
    """Whether a violation that pydoclint found is one by our rules.

    :param code: pydoclint's code for it.
    :param text: what pydoclint says.
    :param classes: the classes of all modules.
    :param held: whether the function is one that the rules are for.
    :returns: whether to report it.
    """
    if code in _REDUNDANT | _ALLOWED:
        return False
    if not held:
        return _TOO_MANY in text
    if code == "DOC503" and (lists := _RAISED.search(text)):
        documented = set(re.findall(r"\w+", lists["documented"]))
        return any(
            raised not in _NOT_ITS_OWN
            and raised.lstrip("_")[:1].isupper()  # else a function or variable, whose class is not known
            and not documented & {raised, *classes.ancestors(raised)}
            for raised in re.findall(r"\w+", lists["raised"])
        )
    return True


def _has_arguments(function: Function, *, is_method: bool) -> bool:
    arguments = function.args
    count = len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)
    count += bool(arguments.vararg) + bool(arguments.kwarg)
    is_static = any(_last_name(each) == "staticmethod" for each in function.decorator_list)
    return count > (is_method and not is_static)


def _last_name(node: ast.expr) -> str:
    """The last part of a name, as in ``module.Class[int]`` or ``module.decorator(1)``."""
    match node:
        case ast.Subscript(value=inner) | ast.Call(func=inner):
            return _last_name(inner)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""


def main(paths: list[str]) -> int:
    """Check files and folders, and print each violation.

    :param paths: the files and folders.
    :returns: the exit status: 1 if anything was found.
    """
    files = [
        file
        for path in map(Path, paths)
        for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))
    ]
    trees = {str(file): ast.parse(file.read_bytes()) for file in files}
    classes = Classes(list(trees.values()))
    held = {path: set(must_document(tree, classes)) for path, tree in trees.items()}

    command = [
        sys.executable,
        "-m",
        "pydoclint.main",
        "--quiet",
        "--show-filenames-in-every-violation-message=True",
    ]
    checked = subprocess.run([*command, *trees], capture_output=True, text=True, check=False)
    violations = [match for line in checked.stderr.splitlines() if (match := _VIOLATION.match(line))]
    if checked.returncode and not violations:
        print(checked.stderr, file=sys.stderr)
        return checked.returncode

    found = [
        each
        for each in violations
        if matters(each["code"], each["text"], classes, held=int(each["line"]) in held[each["path"]])
    ]
    for each in found:
        print(_HINT.sub("", each[0]))
    if found:
        places = {(each["path"], each["line"]) for each in found}
        print(
            f"{len(places)} functions lack documentation; the rules are in CONTRIBUTING.md", file=sys.stderr
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["lockd"]))
