"""The house stands: imports only look down, and no room is too large to see across."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import blemish

HOUSE = Path(blemish.__file__).parent
MAX_MODULE_LINES = 400
MAX_BODY_LINES = 40
EXCEPTIONS = {
    ("integer_scores", "_session"): "a graph written as one list of nodes, which reads best in one piece",
}

# A module imports from lower floors only. Whole numbers are the floors of the design; a further module that another
# one of its floor is built from has a landing between two floors.
FLOORS: dict[str, float] = {
    "_version": 0,
    "errors": 0,
    "arrays": 1,
    "anomalib_arguments": 2,
    "records": 2,
    "integer_scores": 2.5,
    "search_records": 2.5,
    "coreset": 3,
    "winograd": 3,
    "files": 3,
    "graphs": 3,
    "headers": 3,
    "lettering": 3,
    "listing": 3,
    "maps": 3,
    "markup": 3,
    "metrics": 3,
    "modelcheck": 3,
    "neighbors": 3,
    "normality": 3,
    "precision": 3,
    "prefetch": 3,
    "receptive_field": 3,
    "report_style": 3,
    "memory": 3,
    "resize": 3,
    "safepickle": 3,
    "search_answers": 3,
    "search_words": 3,
    "textures": 3,
    "thresholds": 3,
    "drawing": 3.5,
    "tiles": 3.5,
    "folder": 3.5,
    "manifest": 3.5,
    "pixelmetrics": 3.5,
    "pngfile": 3.5,
    "search_lock": 3.5,
    "search_questions": 3.5,
    "search_server": 3.5,
    "architectures": 4,
    "charts": 4,
    "datasets": 4,
    "geometry": 4,
    "surprise": 3,
    "images": 4,
    "materials": 4,
    "checkpoint": 4,
    "modelfile": 4,
    "onnxfile": 4,
    "render": 4,
    "report_text": 4,
    "scoring": 4,
    "search_edge": 4,
    "tfjsfile": 4,
    "torchfile": 4,
    "weights": 4,
    "backbones": 5,
    "inner_resize": 5,
    "datacheck": 5,
    "demo": 5,
    "descent": 5,
    "field_figures": 5,
    "graph_field": 5,
    "pdn": 5,
    "devices": 5.1,
    "trainstate": 5,
    "report_figures": 5,
    "search_sheet": 5,
    "embedding": 5.1,
    "report": 5.1,
    "efficientad_graph": 5.1,
    "efficientad_loss": 5.1,
    "pdn_tiles": 5.1,
    "efficientad_nets": 5.2,
    "penalty": 5.1,
    "refit": 5.1,
    "gaussian": 5.2,
    "settings": 5.2,
    "parts": 5.22,
    "whole": 5.25,
    "training": 5.2,
    "fitting": 5.3,
    "predicting": 5.3,
    "efficientad_maps": 5.3,
    "efficientad_settings": 5.25,
    "efficientad_training": 5.4,
    "efficientad_heads": 5.5,
    "efficientad_loop": 5.5,
    "efficientad_fit": 5.6,
    "efficientad_file": 5.7,
    "stored": 5.3,
    "patchcore_file": 5.4,
    "efficientad": 6,
    "patchcore": 6,
    "targets": 6,
    "trainee": 6,
    "distill": 6.5,
    "teacher": 5.5,
    "detectors": 6.5,
    "search_good": 5.3,
    "search_describe": 6.6,
    "search_place": 6.7,
    "search_points": 6.7,
    "search_meta": 6.8,
    "search_reindex": 6.8,
    "engine": 7,
    "interop.__init__": 7,
    "interop.acceleration": 7,
    "interop.checkpoint_writer": 7,
    "interop.installed": 7,
    "interop.preprocessing": 7,
    "interop.timm_names": 7,
    "interop.anomalib_engine": 7.1,
    "interop.patchcore_checkpoint": 7.1,
    "interop.patchcore_export": 7.2,
    "interop.efficientad_checkpoint": 7.1,
    "interop.efficientad_export": 7.3,
    "interop.side": 7.2,
    "interop.anomalib": 7.4,
    "interop.compare": 7.3,
    "interop.compare_chart": 8,
    "cli_options": 8,
    "console": 8,
    "cli_teacher": 8.5,
    "results": 8,
    "cli_interop": 8.5,
    "cli_search": 8.5,
    "search": 7,
    "cli": 9,
    "__init__": 9,
    "__main__": 9.5,
}
MODULES = sorted(".".join(path.relative_to(HOUSE).with_suffix("").parts) for path in HOUSE.rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parsed(module: str) -> ast.Module:
    return ast.parse((HOUSE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """The modules of the package that are imported anywhere in a tree, also inside functions and for types alone."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "blemish" if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "blemish":
                found.add(known(rest))
    return found


def known(parts: list[str]) -> str:
    """The module that `blemish.a.b` lies in: the longest beginning that is one, else the package itself."""
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in FLOORS:
            return ".".join(parts[:length])
    return parts[0] if parts and (HOUSE / f"{parts[0]}.py").exists() else "__init__"


def functions(tree: ast.Module) -> Iterator[Function]:
    yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def body_lines(function: Function) -> int:
    """Lines from the first statement after the docstring to the end."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    last = function.body[-1].end_lineno
    assert last is not None
    return last - body[0].lineno + 1 if body else 0


def test_each_module_has_a_floor():
    assert sorted(FLOORS) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_look_down(module: str):
    above = {name for name in imported(parsed(module)) if FLOORS[name] >= FLOORS[module]}
    assert not above, f"{module} (floor {FLOORS[module]}) imports {above}"


def test_lazy_and_relative_imports_are_seen():
    code = "def f():\n    from blemish.cli import main\nfrom . import engine\nimport blemish.fitting as f\nimport numpy"
    assert imported(ast.parse(code)) == {"cli", "engine", "fitting"}


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_too_long(module: str):
    n_lines = len((HOUSE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_MODULE_LINES


@pytest.mark.parametrize("module", MODULES)
def test_no_function_is_too_long(module: str):
    long = {(module, f.name) for f in functions(parsed(module)) if body_lines(f) > MAX_BODY_LINES}
    assert long == {place for place in EXCEPTIONS if place[0] == module}


def test_a_docstring_is_no_body():
    (function,) = functions(ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    a = 1\n    return a\n'))
    assert body_lines(function) == 2
