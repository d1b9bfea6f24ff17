"""The JSON files of benchmarks/results, from which the tables of the documentation are generated.

A file holds `tables`, each with title, command, what was measured where and when, notes, columns and rows, and `data`,
the script's own figures in full. A cell is a number, text, None, or a list of numbers; `format` of its column holds one
format specification for each of them, "%" for a share.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def add_json_option(parser, script):
    """Add `--json`, whose default is the file of that script under benchmarks/results."""
    default = RESULTS / f"{Path(script).stem}.json"
    parser.add_argument("--json", type=Path, default=default, help=f"default {default.relative_to(RESULTS.parent)}")


def load_data(path):
    """Return the `data` that `write` put into a file, or None: figures that were transcribed have none."""
    return json.loads(path.read_text(encoding="utf-8")).get("data") if path.exists() else None


def table(title, rows, *, formats=None, notes=""):
    """Return a table of rows, dictionaries with the same keys, measured here and now by this command."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    formats = formats or {}
    return {
        "title": title,
        "command": " ".join(["python", shlex.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])]),
        "measured": measured(),
        "notes": notes,
        "columns": [{"title": name, **({"format": formats[name]} if name in formats else {})} for name in columns],
        "rows": [[row.get(name) for name in columns] for row in rows],
    }


def measured():
    """Return the machine, the version and the day."""
    from blemish import __version__

    return {"machine": machine(), "version": __version__, "commit": commit(), "when": date.today().isoformat()}


def machine():
    """Return the processor's name, the number of cores and their load."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def commit():
    """Return the commit of the working tree, "" where git does not know it."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def show(tables):
    """Print the titles and rows of tables."""
    for one in tables:
        print(one["title"])
        for row in one["rows"]:
            print("  ", *(f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row), sep="  ")


def write(path, tables, data=None):
    """Write a file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"tables": tables} | ({} if data is None else {"data": data})
    half = path.with_suffix(".part")
    half.write_text(text_of(document), encoding="utf-8")
    half.replace(path)


def text_of(document):
    """Return the document as JSON with one row of a table, and of its data, on each line: changes can be read."""
    rows = []

    def stand_in(value):
        if isinstance(value, dict):
            return {
                key: lines(item) if key in {"rows", "columns", "data"} else stand_in(item)
                for key, item in value.items()
            }
        return [stand_in(item) for item in value] if isinstance(value, list) else value

    def lines(items):
        if not isinstance(items, list):
            return stand_in(items)
        rows.extend(json.dumps(item, ensure_ascii=False) for item in items)
        return [f"<row {len(rows) - len(items) + i}>" for i in range(len(items))]

    text = json.dumps(stand_in(document), indent=1, ensure_ascii=False)
    return re.sub(r'"<row (\d+)>"', lambda match: rows[int(match[1])], text) + "\n"
