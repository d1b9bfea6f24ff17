"""Model folders: written whole, read strictly, refused by name when they are damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from blemish import ModelFileError, SaveError
from tests.contract import drawn, names
from tests.contract.same import assert_same

if TYPE_CHECKING:
    from tests.contract.conftest import Case

FILES = {
    "Patchcore": (names.HEADER, names.NETWORK, names.BANK),
    "Padim": (names.HEADER, names.NETWORK, "gaussians.safetensors"),
    "EfficientAd": (names.HEADER, names.NETWORK, names.WEIGHTS),
}
PARTS = [(kind, name) for kind, found in FILES.items() for name in found]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    path = folder / names.HEADER
    header = json.loads(path.read_text())
    how(header)
    if header.pop("digest", None):  # states the new one, as an attacker would
        text = json.dumps(header, sort_keys=True, separators=(",", ":"))
        header["digest"] = hashlib.sha256(text.encode("ascii")).hexdigest()
    path.write_text(json.dumps(header))


@pytest.fixture
def copy(case: Case, tmp_path: Path) -> Path:
    return Path(shutil.copytree(case.saved, tmp_path / "copy"))


def test_a_folder_is_made_with_its_parents(case: Case, tmp_path: Path):
    target = tmp_path / "not" / "there" / "model"
    assert case.fitted.save(str(target)) == target
    assert set(content(target)) == set(FILES[case.kind.__name__])
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    assert content(target) == content(case.saved)


@pytest.mark.slow
def test_what_is_loaded_predicts_the_same_bit_for_bit(case: Case):
    loaded = case.kind.load(case.saved, threads=1)
    assert loaded.is_fitted
    assert (loaded.threshold, loaded.pixel_threshold) == (case.fitted.threshold, case.fitted.pixel_threshold)
    assert names.rate_of(loaded) == names.rate_of(case.fitted)
    for image in drawn.golden_images().values():
        assert_same(loaded.predict(image), case.fitted.predict(image))


@pytest.mark.slow
def test_what_is_loaded_saves_the_same_bytes(case: Case, tmp_path: Path):
    assert content(case.kind.load(case.saved).save(tmp_path / "again")) == content(case.saved)


@pytest.mark.slow
def test_a_moved_threshold_is_saved(case: Case, tmp_path: Path):
    model = case.kind.load(case.saved)
    names.set_rate(model, 0.5)
    again = case.kind.load(model.save(tmp_path / "m"))
    assert (again.threshold, again.pixel_threshold) == (model.threshold, model.pixel_threshold)
    assert names.rate_of(again) == 0.5


def test_an_old_model_is_replaced_whole(case: Case, cases: Callable[[str], Case], tmp_path: Path):
    other = cases(case.other.__name__)
    target = Path(shutil.copytree(other.saved, tmp_path / "m"))
    case.fitted.save(target)
    assert content(target) == content(case.saved)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_target_that_cannot_be_written_is_left_as_it_is(case: Case, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for target in (tmp_path / "file", tmp_path / "file" / "m", tmp_path / "full"):
        with pytest.raises(SaveError):
            case.fitted.save(target)
    assert (tmp_path / "file").read_text() == "mine"
    assert content(tmp_path / "full") == {"notes.txt": b"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_a_model_folder_with_a_strangers_file_loads_and_is_not_overwritten(case: Case, copy: Path):
    (copy / "notes.txt").write_text("mine")
    loaded = case.kind.load(copy)
    with pytest.raises(SaveError, match=r"notes\.txt"):
        loaded.save(copy)
    assert (copy / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_none_or_of_another_detector_is_refused(case: Case, tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, said in (("none", "none"), ("file", "a file"), ("empty", names.HEADER)):
        with pytest.raises(ModelFileError, match=said):
            case.kind.load(tmp_path / name)
    with pytest.raises(ModelFileError, match="detector"):
        case.other.load(case.saved)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "first byte": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "absent": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), PARTS)
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_file_is_named(cases: Callable[[str], Case], tmp_path: Path, kind: str, name: str, damage: str):
    case = cases(kind)
    copy = Path(shutil.copytree(case.saved, tmp_path / "copy"))
    DAMAGES[damage](copy / name)
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        case.kind.load(copy)


@pytest.mark.parametrize(("kind", "name"), [part for part in PARTS if part[1] != names.HEADER])
@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_a_changed_byte_anywhere_is_seen(
    cases: Callable[[str], Case], tmp_path: Path, kind: str, name: str, share: float
):
    case = cases(kind)
    copy = Path(shutil.copytree(case.saved, tmp_path / "copy"))
    data = bytearray((copy / name).read_bytes())
    data[int(share * (len(data) - 1))] ^= 16
    (copy / name).write_bytes(data)
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        case.kind.load(copy)


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "newer": (lambda header: header.update({names.VERSION_FIELD: 99}), "newer version"),
    "no version": (lambda header: header.pop(names.VERSION_FIELD), names.VERSION_FIELD),
    "unknown detector": (lambda header: header.update(detector="cflow"), "cflow"),
    "no settings": (lambda header: header.pop("settings"), "settings"),
    "no files": (lambda header: header.pop("files"), "files"),
    "no thresholds": (lambda header: header.pop("thresholds"), "thresholds"),
    "leaves the folder": (lambda header: header["files"].update({"../x.safetensors": "0" * 64}), "files"),
    "no hash": (lambda header: header["files"].update({names.NETWORK: "x"}), "SHA-256"),
    "unknown setting": (lambda header: header["settings"].pop("image_size"), "image_size"),
}


@pytest.mark.parametrize("what", list(HEADERS))
def test_a_header_that_cannot_be_is_refused(case: Case, copy: Path, what: str):
    how, said = HEADERS[what]
    change(copy, how)
    with pytest.raises(ModelFileError, match=said):
        case.kind.load(copy)


@pytest.mark.parametrize("text", ["[]", "not JSON", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 10_000, "\xff"])
def test_a_header_that_is_no_json_object_is_refused(case: Case, copy: Path, text: str):
    (copy / names.HEADER).write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelFileError, match=r"model\.json: expected a JSON object"):
        case.kind.load(copy)


def test_a_link_out_of_the_folder_is_refused(case: Case, copy: Path, tmp_path: Path):
    moved = (copy / names.NETWORK).rename(tmp_path / "elsewhere.onnx")
    (copy / names.NETWORK).symlink_to(moved)
    with pytest.raises(ModelFileError, match=r"network\.onnx: expected a file in the folder"):
        case.kind.load(copy)
