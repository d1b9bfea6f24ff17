"""One table of exit codes for all commands, and one rule: nothing unread is silent."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from blemish.cli import app
from blemish.cli.exit_codes import MEANINGS, ExitCode, finish
from blemish.data.synthetic.demo import make_demo
from blemish.errors import ModelFileError
from tests.images import good, scratched, write, write_goods

SMALL = ("--image-size", "96", "--layers", "blocks.4")


def commands(group: Any, prefix: str = "") -> dict[str, Any]:
    """Each command by its full name, such as "backbones list"."""
    found = {}
    for name, command in group.commands.items():
        is_group = hasattr(command, "commands")
        found |= commands(command, f"{prefix}{name} ") if is_group else {prefix + name: command}
    return found


COMMANDS = commands(typer.main.get_command(app))


class PanicException(BaseException):
    """As Rust's panics come: no Exception."""


def ending_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each command end with an error before it does anything."""

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise error

    for command in COMMANDS.values():
        monkeypatch.setattr(type(command), "make_context", stop)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ModelFileError("model: expected one."), 2, "error: model: expected one.\n"),
        (OSError(28, "No space left on device", "a\nb"), 2, "error: file: expected to be read or written, got 'No "),
        (MemoryError(), 2, "error: memory: expected enough for this command, got less. Close other programs"),
        (KeyError("bank"), 70, "internal error: KeyError: 'bank'"),
        (RecursionError("a\nb"), 70, "internal error: RecursionError: a\\nb"),
        (PanicException("index out of bounds"), 70, "internal error: PanicException: index out of bounds"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)  # fmt: skip
def test_each_way_to_end_has_one_code_in_all_commands(
    command: str, error: BaseException, code: int, said: str, run, monkeypatch: pytest.MonkeyPatch
):
    ending_with(error, monkeypatch)
    result, out, err = run(*command.split())
    assert (result, out) == (code, "")
    assert err.startswith(said)
    assert err.count("\n") == bool(said)
    assert ("please report it as an issue" in err) == (code == 70)


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_usage_is_two_in_all_commands(command: str, run):
    code, out, err = run(*command.split(), "--no-such\n\x1b[2Jgood")
    assert (code, out) == (2, "")
    assert err.startswith(f"Usage: blemish {command}")
    assert err.splitlines()[-1].startswith("error: ")
    assert "\x1b" not in err
    assert "\ngood" not in err


def test_the_traceback_comes_when_it_is_asked_for(run, monkeypatch: pytest.MonkeyPatch):
    ending_with(KeyError("bank"), monkeypatch)
    for arguments, variable, shown in (
        (("groups",), "", False), (("groups", "--traceback"), "", True), (("--traceback", "groups"), "", True),
        (("groups",), "1", True), (("groups",), "0", False), (("groups", "--", "--traceback"), "", False),
    ):  # fmt: skip
        monkeypatch.setenv("BLEMISH_TRACEBACK", variable)
        code, _, err = run(*arguments)
        assert (code, "Traceback (most recent call last)" in err) == (70, shown), arguments


def test_the_place_of_a_fault_is_named(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("blemish.backbones.registry.SOURCES", {"x": None})
    code, _, err = run("backbones", "list")
    assert (code, ", in registry.py, line " in err) == (70, True)


def test_every_code_has_a_meaning_and_none_is_used_twice():
    assert set(MEANINGS) == set(ExitCode)
    assert all(code >= 4 for code in (ExitCode.INTERNAL, ExitCode.INTERRUPTED, ExitCode.OUTPUT_CLOSED))


def test_what_was_not_read_counts_more_than_a_defect():
    assert finish() is None
    for applies, code in (
        ({"defect": True}, 1), ({"unread": True}, 3), ({"not_comparable": True}, 4),
        ({"unread": True, "defect": True, "not_comparable": True}, 3), ({"defect": True, "not_comparable": True}, 4),
    ):  # fmt: skip
        with pytest.raises(typer.Exit) as ended:
            finish(**applies)
        assert ended.value.exit_code == code


# Images that can't be read, in each command that takes some


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A data set with an unreadable image of each role, and an unreadable mask."""
    root = tmp_path / "parts"
    write_goods(root / "train" / "good", 6)
    write(root / "test" / "good" / "0.png", good(50))
    write(root / "test" / "scratch" / "0.png", scratched(60)[0])
    write(root / "ground_truth" / "scratch" / "0_mask.png", scratched(60)[1])
    for name in ("train/good/empty.png", "test/good/empty.png", "test/scratch/empty.png"):
        (root / name).touch()
    return root


@pytest.mark.slow
def test_test_names_what_it_did_not_read(saved: Path, run, parts: Path, tmp_path: Path):
    code, out, _ = run("test", saved, parts, "--json", "--csv", tmp_path / "s.csv", "--report", tmp_path / "r.html")
    assert code == 3
    left_out = json.loads(out)["left_out"]
    names = {str(parts / name) for name in ("test/good/empty.png", "test/scratch/empty.png")}
    assert {row["path"] for row in left_out} == names
    assert all(row["kind"] == "unreadable" and row["path"] in row["text"] for row in left_out)
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = {row["path"]: (row["outcome"], row["score"]) for row in csv.DictReader(file)}
    assert {path: row for path, row in rows.items() if path in names} == dict.fromkeys(names, ("not read", ""))
    assert len(rows) == 4
    code, out, _ = run("test", saved, parts)
    assert (code, all(name in out for name in names)) == (3, True)


@pytest.mark.slow
def test_test_names_a_mask_that_it_did_not_read(saved: Path, run, parts: Path):
    for name in ("test/good/empty.png", "test/scratch/empty.png"):
        (parts / name).unlink()
    assert run("test", saved, parts)[0] == 0
    (parts / "ground_truth" / "scratch" / "0_mask.png").write_bytes(b"")
    code, out, _ = run("test", saved, parts, "--json")
    assert (code, [row["kind"] for row in json.loads(out)["left_out"]]) == (3, ["unreadable-mask"])


@pytest.mark.slow
def test_fit_names_what_it_did_not_read(run, parts: Path, tmp_path: Path):
    code, out, _ = run("fit", parts, "--out", tmp_path / "m", *SMALL)
    assert (code, str(parts / "train" / "good" / "empty.png") in out, "Saved in" in out) == (3, True, True)
    (parts / "train" / "good" / "empty.png").unlink()
    assert run("fit", parts, "--out", tmp_path / "m", *SMALL)[0] == 0


@pytest.mark.slow
def test_benchmark_names_what_it_did_not_read(run, tmp_path: Path):
    root = make_demo(tmp_path, image_size=96, n_train=6, n_test=2, n_defective=1, categories=("grid", "tile"))
    (root / "tile" / "test" / "good" / "empty.png").touch()
    (root / "grid" / "train" / "good" / "empty.png").touch()
    out = tmp_path / "o.json"
    code, _, err = run("benchmark", "--root", root, *SMALL, "--json", out)
    assert code == 3
    assert {line.split(":")[0] for line in err.splitlines()} >= {"grid", "tile"}
    document = json.loads(out.read_text())
    assert {name: len(rows) for name, rows in document["left_out"].items()} == {"grid": 1, "tile": 1}
    code, _, _ = run("benchmark", "--root", root, "--categories", "grid,no", *SMALL, "--json", out)
    assert (code, list(json.loads(out.read_text())["failed"])) == (2, ["no"])


@pytest.mark.slow
def test_thresholds_name_what_they_did_not_read(saved: Path, run, tmp_path: Path):
    write(tmp_path / "defects" / "scratch" / "0.png", scratched(60)[0])
    (tmp_path / "defects" / "scratch" / "1.png").touch()
    code, out, _ = run("thresholds", saved, "--labelled", tmp_path / "defects", "--json")
    assert (code, len(json.loads(out)["left_out"])) == (3, 1)


@pytest.mark.slow
def test_check_tells_unread_from_unusable(run, tmp_path: Path):
    write_goods(tmp_path / "a", 1)
    assert run("check", tmp_path / "a")[0] == 1
    write_goods(tmp_path / "b", 12)
    assert run("check", tmp_path / "b")[0] == 0
    (tmp_path / "b" / "empty.png").touch()
    assert run("check", tmp_path / "b")[0] == 3


@pytest.mark.slow
def test_predict_tells_a_defect_only_where_all_was_read(saved: Path, run, tmp_path: Path):
    bad, empty = write(tmp_path / "bad.png", scratched(99)[0]), tmp_path / "empty.png"
    empty.touch()
    assert run("predict", saved, bad, "--fail-on-defect")[0] == 1
    code, out, _ = run("predict", saved, bad, empty, "--fail-on-defect", "--json")
    assert (code, [row["outcome"] for row in json.loads(out)]) == (3, ["defective", "not read"])


@pytest.mark.slow
def test_an_output_that_cannot_be_written_is_said(saved: Path, tmp_path: Path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "blemish", "backbones", "list"]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    expected = "error: file: expected to be read or written, got 'No space left on device', in the output.\n"
    assert (ran.returncode, ran.stderr) == (2, expected)
