"""The commands about the teacher, as a person uses them."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from blemish.cli import teacher as cli_teacher
from blemish.imaging.decode import load, save
from tests.efficientad_models import narrow_networks
from tests.images import good


def test_the_derivation_is_printed(run):
    code, out, _ = run("receptive-field")
    assert code == 0
    assert out.startswith("efficientad-s, without padding:")
    assert "33 -> 30 -> 15 -> 12 -> 6 -> 4 -> 1" in out
    assert run("receptive-field", "conv4,pool2/2,conv4,pool2/2,conv3,conv4")[1].splitlines()[2:] == out.splitlines()[2:]


def test_the_derivation_as_json(run):
    code, out, _ = run("receptive-field", "--model", "efficientad-m", "--padding", "--size", 256, "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["receptive_field_px"], document["stride_px"], document["first_px"]) == (33, 4, -16)
    assert document["steps"][0] == {"name": "image", "map": 256, "sees_px": 1, "stride_px": 1}
    assert document["steps"][-1]["map"] == 64


def test_a_backbones_layer(run):
    code, out, _ = run("receptive-field", "--backbone", "efficientnet_lite0", "--layer", "blocks.4", "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["network"], document["receptive_field_px"]) == ("efficientnet_lite0, layer blocks.4", 67)


def test_the_drawing_is_written(run, tmp_path):
    save(tmp_path / "p.png", good(0, 300, 400))
    code, out, _ = run("receptive-field", "--image", tmp_path / "p.png", "--out", tmp_path / "f.png", "--cell", "3, 5")
    assert code == 0
    assert f"Drawing: {tmp_path / 'f.png'}" in out
    assert load(tmp_path / "f.png").shape[1] >= 512
    small = run("receptive-field", "--size", 64, "--image", tmp_path / "p.png", "--out", tmp_path / "g.png", "--json")
    assert json.loads(small[1])["drawing"] == str(tmp_path / "g.png")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["conv4", "--model", "efficientad-s"], "expected a stack, --model or --backbone, got a stack and --model"),
        (["--model", "efficientad"], "model: expected efficientad-s or efficientad-m, got 'efficientad'"),
        (["dense"], "stack: expected layers with commas between, got 'dense'"),
        (["--size", "20"], "size: expected at least 33 pixels"),
        (["--image", "p.png"], "drawing: expected --image and --out together, got --image alone"),
        (["--backbone", "vgg"], "backbone: expected one of efficientnet_lite0"),
        (["--backbone", "efficientnet_lite0", "--layer", "logits"], "got GlobalAveragePool, whose outputs may see"),
    ],
)
def test_wrong_arguments_are_refused(run, arguments, text):
    code, out, err = run("receptive-field", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert text in err
    assert err.count("\n") == 1


def test_a_wrong_cell_or_image_is_refused(run, tmp_path):
    save(tmp_path / "p.png", good(0))
    drawing = ("receptive-field", "--image", tmp_path / "p.png", "--out", tmp_path / "f.png")
    assert "cell: expected a row and a column such as 3,5, got 'x'" in run(*drawing, "--cell", "x")[2]
    assert "cell: expected one of 16 rows and 16 columns" in run(*drawing, "--cell", "99,0")[2]
    (tmp_path / "p.png").write_bytes(b"")
    code, _, err = run(*drawing)
    assert (code, "image: expected an image" in err) == (2, True)


@pytest.mark.parametrize("text", ["", "m", "-3m", "0", "3 d", "1e3"])
def test_distill_refuses_a_wrong_budget(run, tmp_path, text):
    code, _, err = run("distill", tmp_path, "--out", tmp_path / "t.safetensors", f"--budget={text}")
    assert (code, err.startswith("error: budget: expected a ")) == (2, True)


@pytest.mark.slow
def test_distill_prints_the_loss_and_the_card(run, tmp_path):
    for i in range(8):
        save(tmp_path / "photographs" / f"{i}.png", good(i, 260, 260))
    save(tmp_path / "photographs" / "8.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "photographs" / "9.png").write_bytes(b"broken")
    out = tmp_path / "t.safetensors"
    small = ("--backbone", "efficientnet_lite0", "--layers", "blocks.1, blocks.3", "--batch", 1, "--threads", 1)
    command = ("distill", tmp_path / "photographs", "--out", out, "--steps", 1, *small)
    with narrow_networks():
        code, text, err = run(*command)
        assert code == 3
        assert any(line.startswith("error: image: ") and "9.png" in line for line in err.splitlines())
        assert "1 images could not be read." in text
        assert "PDN-S after 1 steps" in text
        assert f"Saved in {out}." in text
        assert "preparing crops: 10 of 10" in err
        assert "min left: 1 of 1" in err
        card = json.loads(run(*command, "--json")[1])
    assert card == json.loads(out.with_suffix(".json").read_text())
    assert card["weights_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    code, _, err = run(*command, "--seed", 1)
    assert (code, err.splitlines()[-1].startswith("error: prepared crops: expected seed 1")) == (2, True)


def test_lines_are_few(capsys):
    lines = cli_teacher.Lines()
    for done in range(1, 1001):
        lines(f"distilling, loss {1 / done}", done, 1000)
    assert lines.shown == {"distilling": 20}
    assert capsys.readouterr().err.count("\n") == 21
