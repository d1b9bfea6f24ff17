"""Training images are shown and learnt from by their content: model.json may name any file of the machine."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from blemish import Patchcore
from blemish._io.files import file_sha256, known_file
from blemish.errors import ModelFileError
from blemish.evaluation import load_nearest_good
from blemish.imaging.decode import save
from blemish.modelfolder.header import Training
from tests.images import good, scratched, small_patchcore
from tests.models import rewrite

SECRET = np.full((48, 48, 3), 7, np.uint8)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of good images, and a model of them, fitted by relative names."""
    (tmp_path / "good").mkdir()
    for i in range(6):
        save(tmp_path / "good" / f"{i}.png", good(i))
    save(tmp_path / "secret.png", SECRET)
    monkeypatch.chdir(tmp_path)
    names = [Path("good") / f"{i}.png" for i in range(6)]
    small_patchcore(score_fusion=False).fit(names).save("model")
    return tmp_path


def shown(model: Patchcore) -> np.ndarray | None:
    image, _ = scratched(60)
    return load_nearest_good(model.predict(image).nearest_good, None)


def point_to(folder: Path, path: str, sha256: str | None = "kept") -> None:
    def change(header):
        for row in header["training"]:
            row["path"] = path
            if sha256 is None:
                row.pop("sha256", None)
            elif sha256 != "kept":
                row["sha256"] = sha256

    rewrite(folder, change)


@pytest.mark.slow
def test_the_image_that_was_learnt_is_shown(place: Path):
    image = shown(Patchcore.load("model"))
    assert image is not None
    assert any((image == good(i)).all() for i in range(6))
    rows = json.loads((place / "model" / "model.json").read_text())["training"]
    assert [row["path"] for row in rows] == [f"good/{i}.png" for i in range(6)]
    assert rows[0]["sha256"] == hashlib.sha256((place / "good" / "0.png").read_bytes()).hexdigest()


@pytest.mark.slow
def test_another_folder_with_images_of_the_same_names(place: Path, monkeypatch: pytest.MonkeyPatch):
    """The fault: `good/3.png` of the working directory was shown, which is an image of another part."""
    other = place / "elsewhere" / "deep"
    (other / "good").mkdir(parents=True)
    for i in range(6):
        save(other / "good" / f"{i}.png", SECRET)
    monkeypatch.chdir(other)
    model = Patchcore.load(place / "model")
    image = shown(model)
    assert image is not None  # found beside the model folder, by its content
    named = model.predict(scratched(60)[0]).to_dict()["nearest_good"]
    assert named["sha256"] == hashlib.sha256((place / named["path"]).read_bytes()).hexdigest()
    assert named["sha256"] != hashlib.sha256(Path(named["path"]).read_bytes()).hexdigest()
    assert image.shape == good(0).shape != SECRET.shape
    assert [path.parent for path in model.fitted.training.files()] == [place / "good"] * 6
    (place / "model").rename(place / "elsewhere" / "m")
    (place / "good").rename(place / "gone")
    assert shown(Patchcore.load(place / "elsewhere" / "m")) is None


@pytest.mark.slow
@pytest.mark.parametrize("sha256", ["kept", None, ""])
def test_a_strangers_model_shows_no_other_file(place: Path, sha256: str | None):
    for path in ("secret.png", str(place / "secret.png"), "../secret.png", "good/../secret.png"):
        point_to(place / "model", path, sha256)
        model = Patchcore.load("model")
        assert shown(model) is None
        hashes = str(model.fitted.provenance["training_sha256"])
        assert model.fitted.training.files(hashes) == [None] * 6


@pytest.mark.slow
def test_a_changed_image_is_not_shown(place: Path):
    for i in range(6):
        save(place / "good" / f"{i}.png", SECRET)
    assert shown(Patchcore.load("model")) is None


@pytest.mark.slow
def test_models_without_hashes_know_their_images_by_the_hash_of_all(place: Path):
    rewrite(place / "model", lambda header: [row.pop("sha256") for row in header["training"]])
    training = Patchcore.load("model").fitted.training
    sha256 = json.loads((place / "model" / "model.json").read_text())["provenance"]["training_sha256"]
    assert training.files(sha256) == [Path("good") / f"{i}.png" for i in range(6)]
    assert training.files("") == [None] * 6
    save(place / "good" / "3.png", SECRET)
    assert training.files(sha256) == [None] * 6


@pytest.mark.slow
@pytest.mark.parametrize("sha256", [3, None, "A" * 64, "0" * 63, ["0" * 64]])
def test_hashes_that_are_none_are_refused(place: Path, sha256: object):
    rewrite(place / "model", lambda header: header["training"][2].update(sha256=sha256))
    with pytest.raises(ModelFileError, match=r"training\.sha256: expected a SHA-256 in hex"):
        Patchcore.load("model")


@pytest.mark.slow
def test_nothing_is_learnt_from_files_that_a_stranger_names(place: Path):
    from blemish.errors import DataError
    from blemish.search.encoder import RegionEncoder

    point_to(place / "model", "secret.png")
    encoder = RegionEncoder(Patchcore.load("model"))
    with pytest.raises(DataError, match="expected at least 2 to encode defects against, got 0 of 0"):
        encoder.fit()


@pytest.mark.slow
def test_no_synthetic_defects_on_files_that_a_stranger_names(place: Path, monkeypatch: pytest.MonkeyPatch):
    from blemish.evaluation import thresholds

    point_to(place / "model", "secret.png")
    seen: list[Path] = []
    monkeypatch.setattr(thresholds, "_readable", lambda paths, _: seen.extend(paths) or thresholds._Images([], None))
    thresholds.collect(Patchcore.load("model"))
    assert seen == []


def test_suspects_that_are_other_files_are_not_drawn(place: Path, capsys: pytest.CaptureFixture[str]):
    from blemish.cli.suspects import draw
    from blemish.types import Suspect

    point_to(place / "model", "secret.png")
    suspect = Suspect("secret.png", 9.0, 1.0, 0.001, "score")
    assert list(draw(Patchcore.load("model"), [suspect], place / "out")) == ["secret.png"]
    assert (
        "expected the one that the model was fitted on, got none, or another file of that name"
        in capsys.readouterr().err
    )
    assert not list(place.glob("out/*"))


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and /proc")
@pytest.mark.parametrize(
    "name", ["/proc/kmsg", "/proc/self/environ", "/dev/zero", "/dev/stdin", "pipe", "link", "folder", "loop"]
)
def test_files_that_never_end_are_not_opened(tmp_path: Path, name: str):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/proc/self/environ")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    path = str(tmp_path / name)
    assert file_sha256(path) == ""
    assert known_file(path, "0" * 64) is None


@pytest.mark.parametrize("name", ["//server/share/a.png", "\\\\server\\share\\a.png", "a\0b", "", "x" * 5000])
def test_names_of_other_machines_are_not_opened(name: str):
    assert file_sha256(name) == ""
    assert known_file(name, "0" * 64, root="/tmp") is None


def test_the_empty_file_and_the_empty_hash(tmp_path: Path):
    (tmp_path / "empty").write_bytes(b"")
    assert known_file(str(tmp_path / "empty"), hashlib.sha256(b"").hexdigest()) is None
    assert known_file(str(tmp_path / "empty"), "") is None
    assert Training(("a", "b"), ((1, 1), (1, 1))).files() == [None, None]
