"""Images that are not like those that a model learnt from: in words, in JSON, and as a verdict of its own."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.images import good, scratched, write

# Of the same part: how it differs from the 96 x 96 good images.
CHANGES = {
    "stretched": (cv2.resize(good(1), (192, 96)), "wider than the good images"),
    "upright": (cv2.resize(good(1), (96, 192)), "narrower than the good images"),
    "half": (good(1)[:, :48], "narrower than the good images"),
    "quarter": (cv2.resize(good(1), (24, 24), interpolation=cv2.INTER_AREA), "smaller than the good images"),
    "double": (cv2.resize(good(1), (192, 192)), "larger than the good images"),
    "blurred": (cv2.GaussianBlur(good(1), (0, 0), 2.5), "less sharp than the good images"),
    "grey": (
        cv2.cvtColor(good(1), cv2.COLOR_RGB2GRAY),
        "less colourful than the good images",
    ),
    "dark": ((good(1) * 0.2).astype(np.uint8), "darker than the good images"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_predict_says_how_an_image_differs(saved: Path, run, tmp_path: Path, name: str):
    image, phrase = CHANGES[name]
    path = write(tmp_path / f"{name}.png", np.ascontiguousarray(image))
    code, out, _ = run("predict", saved, path)
    assert (code, out.endswith(f"  ({phrase})\n"), out.startswith("not comparable")) == (0, True, False)
    code, out, _ = run("predict", saved, path, "--fail-on-drift", "--json")
    (row,) = json.loads(out)
    assert (code, row["outcome"], row["drift"]) == (4, "not comparable", phrase)


@pytest.mark.slow
def test_predict_with_a_verdict_of_its_own(saved: Path, run, tmp_path: Path):
    fine, small = write(tmp_path / "a.png", good(3)), write(tmp_path / "b.png", CHANGES["quarter"][0])
    bad, empty = write(tmp_path / "c.png", scratched(99)[0]), tmp_path / "d.png"
    empty.touch()
    assert run("predict", saved, fine, "--fail-on-drift")[:1] == (0,)
    code, out, _ = run("predict", saved, fine, small, "--fail-on-drift", "--fail-on-defect")
    assert (code, [line[:4] for line in out.splitlines()]) == (4, ["good", "not "])
    assert run("predict", saved, bad, "--fail-on-defect")[0] == 1
    assert run("predict", saved, small, empty, "--fail-on-drift")[0] == 3


@pytest.mark.slow
def test_test_says_how_images_differ(saved: Path, run, tmp_path: Path):
    for seed in range(5):
        write(tmp_path / "parts" / "good" / f"{seed}.png", cv2.resize(good(seed), (192, 96)))
        write(tmp_path / "parts" / "scratch" / f"{seed}.png", scratched(seed)[0])
    code, out, _ = run("test", saved, tmp_path / "parts")
    assert code == 0
    assert "images are not like those that the model learnt from: " in out
    assert "1 wider than the good images" in out
    code, out, _ = run("test", saved, tmp_path / "parts", "--json", "--fail-on-drift")
    drifted = {path: drift for path, drift in json.loads(out)["drift"].items() if "/good/" in path}
    assert (code, list(drifted.values())) == (4, ["wider than the good images"])
