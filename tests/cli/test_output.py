"""Names of files on any output: no forged line, no escape sequence, no encoding that ends a command, no lost line."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import blemish.cli
from blemish.cli import main
from tests.images import good, scratched, write, write_goods
from tests.stores import blotched

# A forged line, a terminal's escape sequence, a reversed direction, letters of other scripts, and no text at all.
HOSTILE = (
    "x\ny       0.001 of 9.000  p 0.9  z",
    "\x1b[2J\x1b[1;1Hpart", "\u202egnp.part", "Größe 検査", os.fsdecode(b"caf\xe9"),
    "a\rpart", "=cmd|'calc'!A0",
)  # fmt: skip
SHOWN = (
    "x\\ny       0.001 of 9.000  p 0.9  z", "\\x1b[2J\\x1b[1;1Hpart", "\\u202egnp.part", "Größe 検査", "caf\\udce9",
    "a\\rpart", "=cmd|'calc'!A0",
)  # fmt: skip
ENCODINGS = ("ascii", "cp1252", "utf-8", "shift_jis")

pytestmark = pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names that these systems lack")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch):
    """Call the command line with outputs of an encoding; return (exit code, stdout, stderr) as bytes."""

    def call(encoding: str, *arguments: object) -> tuple[int, bytes, bytes]:
        raw = io.BytesIO(), io.BytesIO()
        with monkeypatch.context() as patch:
            for name, buffer in zip(("stdout", "stderr"), raw, strict=True):
                patch.setattr(sys, name, io.TextIOWrapper(buffer, encoding=encoding, errors="strict"))
            patch.setattr(sys, "argv", ["blemish", *map(str, arguments)])
            with pytest.raises(SystemExit) as stop:
                main()
            sys.stdout.flush()
            sys.stderr.flush()
            return int(stop.value.code or 0), *(buffer.getvalue() for buffer in raw)

    return call


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Defective images with hostile names, half of them unreadable, in folders with such names."""
    for seed, name in enumerate(HOSTILE):
        write(tmp_path / "in" / "scratch" / f"{name}.png", scratched(200 + seed)[0])
        (tmp_path / "in" / "scratch" / f"{name}.jpg").touch()
    return tmp_path / "in"


def shown(name: str, encoding: str) -> str:
    return name.encode(encoding, "backslashreplace").decode(encoding)


def check_lines(text: bytes, encoding: str) -> str:
    """Return a text after checking that no line of it is forged, and nothing acts on a terminal."""
    decoded = text.decode(encoding)
    assert all(c == "\n" or c.isprintable() or c == "\u3000" for c in decoded)
    assert not any(line.startswith("y  ") for line in decoded.splitlines())
    return decoded


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_predict(saved: Path, encoded, hostile: Path, tmp_path: Path, encoding: str):
    figures = tmp_path / "figures"
    code, out, err = encoded(encoding, "predict", saved, hostile, "--out", figures, "--masks", tmp_path / "masks")
    assert code == 3
    text, errors = check_lines(out, encoding), check_lines(err, encoding)
    assert len(text.splitlines()) == sum(line.startswith("error: ") for line in errors.splitlines()) == len(HOSTILE)
    for name in SHOWN:
        assert sum(line.split("  (")[0].endswith(f"/{shown(name, encoding)}.png") for line in text.splitlines()) == 1
        assert f"/{shown(name, encoding)}.jpg." in errors
    assert len(list(figures.iterdir())) == len(HOSTILE)
    code, out, _ = encoded(
        encoding, "predict", saved, hostile, "--out", figures, "--masks", tmp_path / "masks", "--json"
    )
    rows = json.loads(out)
    assert {Path(row["path"]).stem for row in rows} == set(HOSTILE)  # exact
    assert all(Path(row["figure"]).is_file() and Path(row["mask"]).is_file() for row in rows if row["score"])


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_test_and_its_files(saved: Path, encoded, hostile: Path, tmp_path: Path, encoding: str):
    write(hostile / "good" / "\x1b[2J.png", good(50))
    table, page = tmp_path / "s.csv", tmp_path / "r.html"
    code, out, err = encoded(encoding, "test", saved, hostile, "--csv", table, "--report", page)
    assert code == 3
    text = check_lines(out, encoding)
    check_lines(err, encoding)
    assert all(shown(name, encoding) in text for name in SHOWN)
    with table.open(newline="", encoding="utf-8") as file:
        cells = {row["path"] for row in csv.DictReader(file, strict=True)}
    names = {f"{hostile}/scratch/{name}.{end}" for name in HOSTILE for end in ("png", "jpg")}
    assert {name.replace("\udce9", "\\udce9") for name in names} <= cells
    source = page.read_text(encoding="utf-8")
    assert not any(mark in source for mark in ("\x1b", "\u202e", "\udce9"))
    assert "\\x1b[2J" in source
    _, out, _ = encoded(encoding, "test", saved, hostile, "--json")
    assert {Path(row["path"]).stem for row in json.loads(out)["left_out"]} == set(HOSTILE)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "shift_jis"])
def test_fit_check_and_suspects(encoded, tmp_path: Path, encoding: str):
    folder = tmp_path / "good"
    write_goods(folder, 20)
    image = good(3)
    image[len(image) // 2 :] = 0
    for name in HOSTILE[:5]:
        write(folder / f"{name}.png", good(60))
        (folder / f"{name}.jpg").touch()
    (folder / "003.png").unlink()
    write(folder / f"{HOSTILE[0]}\u202e.png", image)
    small = ("--image-size", "96", "--layers", "blocks.4,blocks.10", "--coreset-ratio", "0.1")
    code, out, err = encoded(encoding, "fit", folder, "--out", tmp_path / "m", *small)
    assert code == 3
    text = check_lines(out, encoding)
    check_lines(err, encoding)
    assert all(f"{shown(name, encoding)}.jpg" in text for name in SHOWN[:5])
    code, out, err = encoded(encoding, "suspects", tmp_path / "m", "--out", tmp_path / "figures")
    assert (code, err) == (0, b"")
    assert "\\u202e.png" in check_lines(out, encoding)
    code, out, _ = encoded(encoding, "suspects", tmp_path / "m", "--json")
    assert json.loads(out)["suspects"][0]["path"].endswith(f"{HOSTILE[0]}\u202e.png")
    code, out, _ = encoded(encoding, "check", folder)
    assert code == 3
    assert all(f"{shown(name, encoding)}.jpg" in check_lines(out, encoding) for name in SHOWN[:5])


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_commands_of_a_store(saved: Path, encoded, hostile: Path, tmp_path: Path, encoding: str):
    store = tmp_path / "s"
    code, out, err = encoded(encoding, "index", saved, hostile, "--store", store, "--labels", "from-folders")
    assert code == 3
    text = check_lines(out, encoding)
    check_lines(err, encoding)
    assert all(f"{shown(name, encoding)}.jpg" in text for name in SHOWN)
    code, out, _ = encoded(encoding, "groups", "--store", store)
    assert code == 0
    check_lines(out, encoding)
    part = write(tmp_path / f"{HOSTILE[1]}.png", blotched(300))
    code, out, err = encoded(encoding, "suggest", saved, part, tmp_path / HOSTILE[0], "--store", store, "--force")
    assert (code, SHOWN[1].encode() in out, SHOWN[0].encode() in err) == (3, True, True)
    check_lines(out, encoding)
    check_lines(err, encoding)
    code, out, err = encoded(
        encoding, "similar", saved, part, "--store", store, "--force", "--sheet", tmp_path / "\n.png"
    )
    assert code == 0
    check_lines(out, encoding)
    assert err.endswith(b"/\\n.png\n")


def test_a_hostile_category_and_folder(encoded, tmp_path: Path):
    for encoding in ENCODINGS:
        code, out, err = encoded(encoding, "predict", tmp_path / HOSTILE[0], tmp_path / "x")
        assert (code, out) == (2, b"")
        assert check_lines(err, encoding).count("\n") == 1


@pytest.mark.slow
def test_a_name_of_254_bytes_does_not_end_predict_half_way(saved: Path, run, tmp_path: Path):
    names = ["a" * 250, "b" * 250, "検" * 83 + "a", "c"]
    for seed, name in enumerate(names):
        write(tmp_path / "in" / f"{name}.png", good(seed))
    code, out, _ = run(
        "predict", saved, tmp_path / "in", "--out", tmp_path / "out", "--masks", tmp_path / "k", "--json"
    )
    assert code == 0
    rows = json.loads(out)
    assert sorted(Path(row["path"]).stem for row in rows) == sorted(names)
    for key, folder in (("figure", "out"), ("mask", "k")):
        assert sorted(row[key] for row in rows) == sorted(map(str, (tmp_path / folder).iterdir()))


# Real processes


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "blemish", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    return {**kept, **changes}


ASCII_LOCALES = (
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "POSIX", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "cp1252:strict", "LC_ALL": "C.UTF-8"},
)


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "to"), [*((one, "pipe") for one in ASCII_LOCALES), (ASCII_LOCALES[1], "file")])
def test_no_locale_loses_a_line(saved: Path, hostile: Path, tmp_path: Path, changes: dict[str, str], to: str):
    for options, n_lines in (((), len(HOSTILE)), (("--json",), None)):
        with (tmp_path / "out.txt").open("wb") as file:
            target = subprocess.PIPE if to == "pipe" else file
            arguments = program("predict", saved, hostile, "--out", tmp_path / "figures", *options)
            ran = subprocess.run(
                arguments, stdout=target, stderr=subprocess.PIPE, env=environment(**changes), check=False
            )
        out = ran.stdout if to == "pipe" else (tmp_path / "out.txt").read_bytes()
        assert ran.returncode == 3, ran.stderr
        assert b"Traceback" not in ran.stderr
        assert ran.stderr.count(b"error: ") == len(HOSTILE)
        assert n_lines is None or out.count(b"\n") == n_lines
        if options:
            paths = {os.fsencode(row["path"]) for row in json.loads(out)} if "LC_ALL" not in changes else None
            wanted = {os.fsencode(hostile / "scratch" / f"{name}.{end}") for name in HOSTILE for end in ("png", "jpg")}
            assert paths is None or paths == wanted
            assert len(json.loads(out)) == 2 * len(HOSTILE)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("backbones", "list"), ("--help",), ("predict",)])
def test_a_closed_pipe_ends_quietly(saved: Path, hostile: Path, arguments: tuple[str, ...]):
    if arguments == ("predict",):
        arguments = ("predict", str(saved), str(hostile), "--json")
    for script in ("import os, sys; os.read(0, 1)", "pass"):
        writing = subprocess.Popen(program(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert writing.stdout is not None
        assert writing.stderr is not None
        if script == "pass":
            writing.stdout.close()
            err = writing.stderr.read()
            assert writing.wait(60) == 141
            assert err.count(b"error: ") == (len(HOSTILE) if "predict" in arguments else 0)
        else:
            writing.stdout.read(1)
            writing.stdout.close()
            err = writing.stderr.read()
            assert writing.wait(60) in {0, 3, 141}
        assert b"Traceback" not in err
        assert b"Exception ignored" not in err
        writing.stderr.close()


@pytest.mark.slow
def test_a_closed_stdout_is_no_fault(saved: Path, tmp_path: Path):
    image = write(tmp_path / "a.png", good(1))
    command = f'"{sys.executable}" -m blemish predict "{saved}" "{image}" >&-'
    ran = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_commands_print_through_the_console_alone():
    folder = Path(blemish.cli.__file__).parent
    for path in folder.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {ast.unparse(call.func) for call in calls}
        direct = names & {"print", "sys.stdout.write", "sys.stderr.write", "typer.echo", "typer.secho"}
        assert not direct or path.name == "console.py", path.name
