"""Parts of the pages that are generated when the site is built: command line, settings, benchmarks, layers.

A line `<!-- generated: NAME ARGUMENTS -->` in a page is followed by what the function of that name returns. Nothing is
written to disk, so that nothing can be out of date.
"""

from __future__ import annotations

import html
import inspect
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
NO_BREAK = "\N{NO-BREAK SPACE}"
MARKER = re.compile(r"^<!-- generated: ([a-z-]+)((?: [\w./-]+)*) -->$", re.M)
COMMAND_GROUPS = {
    "Detect": ("demo", "check", "fit", "suspects", "test", "predict", "thresholds", "benchmark"),
    "Backbones": ("backbones list", "backbones fetch"),
    "Inspection station": ("station",),
    "Many machines": ("cluster fit", "cluster predict"),
    "Similar defects": (
        "index",
        "similar",
        "suggest",
        "label",
        "groups",
        "reindex",
        "store check",
        "store snapshot",
        "store restore",
    ),
    "anomalib": ("import", "export-anomalib", "compare"),
    "EfficientAD's teacher": ("distill", "receptive-field"),
}
# What a reader needs to know of each package, in the order of the layers of pyproject.toml.
PURPOSES = {
    "cli": "commands",
    "station": "inspection service",
    "cluster": "many machines",
    "interop": "anomalib",
    "exporters": "other runtimes",
    "search": "similar defects",
    "evaluation": "engine, report",
    "detectors": "PatchCore, PaDiM, EfficientAD",
    "data": "data sets",
    "backbones": "networks",
    "modelfolder": "save, load",
    "visualization": "figures",
    "imaging": "decode, resize, maps",
    "_graphs": "ONNX graphs",
    "ops": "coreset, neighbors, conformal",
    "metrics": "AUROC, AUPRO",
    "_io": "files",
    "runtime": "sessions",
    "_validation": "argument checks",
    "types": "records",
    "errors": "errors",
    "_version": "version",
    "_pyinstaller": "hook for frozen applications",
}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; a pipe in a cell is escaped."""
    lines = [header, ["-"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in row) + " |" for row in lines
    )


def definitions(terms: Mapping[str, str]) -> str:
    """Return a definition list of code terms; it stays readable on a narrow screen, where a table does not."""
    return "\n\n".join(f"`{term}`\n: {text}" for term, text in terms.items())


# --- the command line -------------------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """Return each command of the command line by its full name, such as "backbones list"."""
    import typer

    from blemish.cli import app

    return dict(_commands(typer.main.get_command(app), ""))


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def command_line() -> str:
    """Return a section for each command with its arguments and options; each command must be in a group."""
    known = commands()
    grouped = {name: heading for heading, names in COMMAND_GROUPS.items() for name in names}
    others = [name for name in known if name not in grouped]
    groups = {**COMMAND_GROUPS, **({"Further commands": tuple(others)} if others else {})}
    parts = []
    for heading, names in groups.items():
        there = [name for name in names if name in known]
        if there:
            parts += [f"## {heading}", *(_command(name, known[name]) for name in there)]
    return "\n\n".join(parts)


def _command(name: str, command: Any) -> str:
    text, _, example = inspect.cleandoc(command.help or "").partition("Example: ")
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    needed = [_placeholder(one) if one.required else f"[{_placeholder(one)}]" for one in arguments]
    needed += [f"{one.opts[0]} {one.name.upper()}" for one in options if one.required]
    parts = [
        f"(cli-{name.replace(' ', '-')})=",
        f"### blemish {name}",
        escaped(" ".join(text.split())),
        f"```sh\n{' '.join(['blemish', name, *needed, '[options]'])}\n```",
    ]
    if example:
        parts.append(f"Example: `{example.strip()}`")
    terms = {_placeholder(one): _help(one) for one in arguments if _help(one)}
    terms |= {" ".join([", ".join(one.opts), _value(one)]).strip(): _help(one) for one in options}
    return "\n\n".join([*parts, definitions(terms)])


def exit_codes() -> str:
    """Return the table of exit codes."""
    from blemish.cli.exit_codes import MEANINGS

    return table(("code", "meaning"), [(str(int(code)), escaped(meaning)) for code, meaning in MEANINGS.items()])


def _placeholder(parameter: Any) -> str:
    return parameter.name.upper() + ("..." if parameter.nargs == -1 else "")


def _value(option: Any) -> str:
    """Return the kind of an option's value; later versions of Typer have no click types any more."""
    if option.is_flag:
        return ""
    if hasattr(option, "type_descriptor"):
        kind = getattr(option.type_descriptor.annotation, "__args__", (option.type_descriptor.annotation,))[0].__name__
    else:
        kind = option.type.name
    name = {"Path": "PATH", "str": "TEXT", "int": "NUMBER", "integer": "NUMBER", "float": "NUMBER"}.get(
        kind, kind.upper()
    )
    return f"{name}..." if option.multiple else name


def _help(parameter: Any) -> str:
    text = escaped(getattr(parameter, "help", "") or "")
    default = parameter.default
    if parameter.required and parameter.param_type_name == "option":
        text += " Required."
    elif isinstance(default, (str, int, float, Path)) and not isinstance(default, bool) and str(default):
        text += f" Default: `{default}`."
    return text.strip()


def escaped(text: str) -> str:
    """Return text in which Markdown sees no HTML and no link; code in backticks stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<>\[\]*_])", r"\\\1", part) for part in parts)


# --- settings ---------------------------------------------------------------------------------------------------------


def settings(detector: str) -> str:
    """Return the settings of a detector as its dataclass declares them: default, type, command-line option, meaning."""
    import blemish
    from blemish.detectors.settings import describe_settings

    return definitions(
        {
            f"{row.name} = {row.default}": " ".join(
                [escaped(row.help), f"Type: `{row.type}`.", *([f"Option: `{row.option}`."] if row.option else [])]
            )
            for row in describe_settings(getattr(blemish, detector).settings_type)
        }
    )


# --- measured figures -------------------------------------------------------------------------------------------------


def benchmark(name: str, index: str = "") -> str:
    """Return the tables of benchmarks/results/NAME.json, or one of them, each with its command, machine and notes."""
    tables = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["tables"]
    return "\n\n".join(_benchmark_table(one) for one in (tables[int(index) :][:1] if index else tables))


def _benchmark_table(one: dict[str, Any]) -> str:
    columns, measured = one["columns"], one["measured"]
    rows = [
        [_cell(value, column.get("format")) for value, column in zip(row, columns, strict=True)] for row in one["rows"]
    ]
    version = f"version {measured['version']}" + (f", commit {measured['commit']}" if measured.get("commit") else "")
    source = f"Measured with {version}, {measured['when']}; {escaped(measured['machine'])}. Command: `{one['command']}`"
    parts = [f"**{one['title']}**", table([escaped(column["title"]) for column in columns], rows)]
    if one.get("notes"):
        parts.append(escaped(one["notes"]))
    return "\n\n".join([*parts, f"```{{container}} measured\n{source}\n```"])


def _cell(value: object, formats: Sequence[str] | None) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return f",{NO_BREAK}".join(_number(item, form) for item, form in zip(value, formats or (), strict=False))
    if isinstance(value, str):
        return escaped(value)
    return _number(value, formats[0] if formats else "g")


def _number(value: Any, form: str) -> str:
    return f"{100 * value:.0f}{NO_BREAK}%" if form == "%" else format(value, form)


# --- derived figures --------------------------------------------------------------------------------------------------


def receptive_field(size: str) -> str:
    """Return the derivation of the receptive field of a PDN ("small" or "medium"), layer by layer."""
    from blemish.detectors.efficientad.pdn import layers
    from blemish.ops.receptive_field import derive

    rows = []
    for step in derive(layers(size)):  # type: ignore[arg-type]
        layer = step.layer
        cells = ["", "", ""] if layer is None else [str(layer.kernel), str(layer.stride), str(layer.padding)]
        rows.append([step.name, *cells, str(step.size), f"{step.field.size} px", f"{step.field.stride} px"])
    return table(
        ["layer", "kernel", "stride", "padding", "map size", "receptive field", "distance of two outputs"], rows
    )


def backbones() -> str:
    """Return the table of backbones."""
    from blemish.backbones import available

    rows = [
        [
            f"`{one.name}`",
            escaped(", ".join(one.layers)),
            f"{one.gmac:.1f} GMAC",
            one.licence,
            f"{one.download_mb:.1f} MB",
            f"`{one.source}`",
        ]
        for one in available()
    ]
    header = ["name", "default layers", "cost at 320 px", "licence of the weights", "download", "source of the weights"]
    return table(header, rows)


def layers() -> str:
    """Return the layers of packages as a drawing: imports only go down."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(one for one in config["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    rows = [[name.strip(" ()").removeprefix("blemish.") for name in line.split("|")] for line in contract["layers"]]
    width, height, gap = 760, 52, 14
    drawn = []
    for index, row in enumerate(rows):
        y = index * (height + gap)
        box = (width - 8 * (len(row) - 1)) / len(row)
        for column, name in enumerate(row):
            x = column * (box + 8)
            drawn.append(f'<rect class="box" x="{x:.1f}" y="{y}" width="{box:.1f}" height="{height}" rx="6"/>')
            drawn.append(f'<text class="name" x="{x + box / 2:.1f}" y="{y + 22}">{html.escape(name)}</text>')
            purpose = html.escape(PURPOSES.get(name, ""))
            drawn.append(f'<text class="purpose" x="{x + box / 2:.1f}" y="{y + 40}">{purpose}</text>')
        if index:
            drawn.append(f'<path class="arrow" d="M{width / 2} {y - gap + 2} v{gap - 6} m-4 -4 l4 4 l4 -4"/>')
    total = len(rows) * (height + gap) - gap
    opening = f'<svg class="layers" viewBox="-1 -1 {width + 2} {total + 2}" role="img" aria-label="Packages in layers">'
    return "```{raw} html\n" + opening + "".join(drawn) + "</svg>\n```"


GENERATORS: dict[str, Callable[..., str]] = {
    "exit-codes": exit_codes,
    "command-line": command_line,
    "settings": settings,
    "benchmark": benchmark,
    "receptive-field": receptive_field,
    "backbones": backbones,
    "layers": layers,
}


def filled(text: str) -> str:
    """Return a page with what its markers ask for."""

    def fill(match: re.Match[str]) -> str:
        return GENERATORS[match[1]](*match[2].split())

    return MARKER.sub(fill, text)


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""

    def fill(_app: Any, _docname: str, source: list[str]) -> None:
        source[0] = filled(source[0])

    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
