"""The size of modules and functions, and that no package reaches into the private names of another."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

import blemish

PACKAGE = Path(blemish.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
MAX_MODULE_LINES = 600
MAX_BODY_LINES = 40
LONG_FUNCTIONS = {("ops/int8_bounds.py", "_session")}  # a graph written as one list of nodes


def parsed(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    last = function.body[-1].end_lineno
    assert last is not None
    return last - body[0].lineno + 1 if body else 0


def private_imports(tree: ast.Module, package: str) -> list[str]:
    """Private names that a module of `package` imports from modules of other packages."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("blemish."):
            other = (node.module or "").split(".")[1]
            if other != package:
                found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name.startswith("_")]
    return [name for name in found if name != "blemish._version.__version__"]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_too_long(module: str) -> None:
    assert len((PACKAGE / module).read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES


@pytest.mark.parametrize("module", MODULES)
def test_no_function_is_too_long(module: str) -> None:
    functions = [node for node in ast.walk(parsed(module)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    long = {(module, function.name) for function in functions if body_lines(function) > MAX_BODY_LINES}
    assert long == {place for place in LONG_FUNCTIONS if place[0] == module}


@pytest.mark.parametrize("module", MODULES)
def test_no_package_imports_private_names_of_another(module: str) -> None:
    assert private_imports(parsed(module), module.split("/", maxsplit=1)[0]) == []


def test_a_private_import_is_seen() -> None:
    code = "def f():\n    from blemish.ops.coreset import _grow, coreset"
    assert private_imports(ast.parse(code), "search") == ["blemish.ops.coreset._grow"]
    assert private_imports(ast.parse(code), "ops") == []


@pytest.mark.parametrize("method", ["fit", "predict"])
def test_the_spine_is_short_and_its_calls_exist(method: str) -> None:
    page = (PACKAGE.parent / "docs" / "contributing" / "architecture.md").read_text(encoding="utf-8")
    section = page.split(f"`Patchcore.{method}`:")[1].split("\n\n")[1]
    steps = re.findall(r"^\d+\. `(blemish/[\w/]+)\.py` `([\w.]+)`", section, re.MULTILINE)
    assert len(steps) == len(section.splitlines()) <= 8
    assert len({file for file, _ in steps}) <= 6
    for file, name in steps:
        assert callable(attrgetter(name)(import_module(file.replace("/", "."))))
