"""Fuzz targets: each reads bytes, and may raise a `BlemishError` and nothing else.

A target is a function of bytes, and a seed corpus: small files that are read without an error.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import tempfile
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from blemish._graphs.safety import check_network
from blemish._io.files import read_file
from blemish._io.json_file import read_json_object
from blemish._io.safetensors_file import read_tensors
from blemish._io.torch_file import read_checkpoint
from blemish.backbones.keras_resnet import read_tfjs
from blemish.backbones.weights import wheel_member
from blemish.data.manifest import read_manifest
from blemish.detectors import registry
from blemish.errors import BlemishError, ModelFileError
from blemish.imaging.decode import decode
from blemish.imaging.geometry import choose_geometry
from blemish.interop.anomalib.checkpoints import import_checkpoint
from blemish.modelfolder.folder import header_digest
from blemish.ops.statistics import Affine
from blemish.search.backends.interface import StoredPoint
from blemish.search.backends.ledger import LEDGER, Ledger
from blemish.search.backends.seal import check_seal, write_seal
from blemish.search.encoder import DIMS, NAME
from blemish.search.metadata import Metadata
from blemish.search.normal_statistics import CHANNELS, NormalStatistics
from blemish.search.snapshot import SHA256, digest_of_tensors, read_snapshot, write_points

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


def _images() -> list[bytes]:
    """Return small images of each format, compression and depth."""
    from PIL import Image

    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (12, 17, 3), np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (12, 17), np.uint16))
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (rgb, "png", {}), (deep, "png", {}), (rgb.convert("P"), "png", {}), (rgb.convert("RGBA"), "png", {}),
        (rgb, "jpeg", {"quality": 80}), (rgb, "jpeg", {"progressive": True, "exif": Image.Exif()}),
        (rgb.convert("CMYK"), "jpeg", {}), (rgb, "bmp", {}), (rgb, "webp", {"lossless": True}), (rgb, "webp", {}),
        *((rgb, "tiff", {"compression": name}) for name in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")),
        (deep, "tiff", {}),
    ]  # fmt: skip
    made = []
    for image, kind, options in kinds:
        file = io.BytesIO()
        image.save(file, kind, **options)
        made.append(file.getvalue())
    return made


def _manifest(ending: str) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / f"manifest{ending}"
            path.write_bytes(data)
            for name in "ab":
                (Path(place) / f"{name}.png").write_bytes(b"")
            return read_manifest(path)

    return read


CSV = b"path,split,label,mask,group\na.png,train,good,,1\nb.png,test,scratch,,2\n"
JSON_LINES = b'{"path": "a.png", "split": "train", "label": "good"}\n{"path": "b.png", "split": "test", "label": "x"}\n'


def _store(data: bytes) -> None:
    """Read the metadata, the ledger and the seal of a store, which are packed as a zip."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, content in _members(data).items():
            (folder / name).write_bytes(content)
        errors = []
        for read in (lambda: check_seal(folder), Ledger(folder / LEDGER).read, lambda: _metadata(folder)):
            try:
                read()
            except BlemishError as error:
                errors.append(error)
        if errors:
            raise errors[0]


def _metadata(folder: Path) -> None:
    path = folder / "store.json"
    meta = Metadata.of(read_json_object(read_file(path, name="store.json"), name="store.json"), "store")
    for model in meta.models.values():
        NormalStatistics.from_dict(model["good"], where="store")


def _statistics() -> NormalStatistics:
    rng = np.random.default_rng(0)
    whitening = {
        name: Affine(rng.standard_normal((n, n), "f4"), rng.standard_normal(n, "f4")) for name, n in CHANNELS.items()
    }
    return NormalStatistics(choose_geometry([(64, 64)], (64, 64), None), whitening, 1.0)


@functools.cache
def _stores() -> list[bytes]:
    """Return the files of a store of two points, without the engine's."""
    models = {"part": {"id": "m", "good": _statistics().to_dict()}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        meta = {"format_version": 2, "descriptor": NAME, "dims": DIMS, "models": models}
        (folder / "store.json").write_text(json.dumps(meta))
        ledger = Ledger(folder / LEDGER)
        ledger.rewrite({str(uuid.UUID(int=1)): "0" * 32})
        ledger.changing([str(uuid.UUID(int=2))])
        write_seal(folder, ["store.json", LEDGER])
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as packed:
            for path in sorted(folder.iterdir()):
                packed.write(path, path.name)
    return [made.getvalue()]


def _snapshot(data: bytes) -> None:
    """Read a snapshot whose digest is made right, so that its content is reached."""
    with contextlib.suppress(ModelFileError, KeyError):
        tensors = read_tensors(data, name="snapshot")
        tensors[SHA256] = np.frombuffer(digest_of_tensors(tensors), np.uint8)
        data = safetensors.numpy.save(tensors)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "s").write_bytes(data)
        read_snapshot(Path(place) / "s")


@functools.cache
def _snapshots() -> list[bytes]:
    payload = {
        "kind": "region", "category": "part", "path": "a.png", "sha256": "0" * 64, "p_value": 0.5, "model": "m",
        "time": "2026-01-01T00:00:00+00:00", "label": None, "box": [1, 2, 3, 4], "area_px": 3, "contour": "1,2 3,4",
        "score": 1.5, "forced": False,
    }  # fmt: skip
    vector = np.ones(DIMS["region"], np.float32)
    points = [StoredPoint(str(uuid.UUID(int=i)), payload, vector=vector) for i in (1, 2)]
    models = {"part": {"id": "m", "good": {}}}
    with tempfile.TemporaryDirectory() as place:
        meta = {"format_version": 2, "descriptor": NAME, "dims": DIMS, "models": models}
        write_points(meta, points, Path(place) / "s")
        return [(Path(place) / "s").read_bytes()]


TARGETS = {
    "model_folder": Target(model_folder, _folders),
    "network": Target(lambda data: check_network(data, name="network.onnx"), lambda: _parts(".onnx")),
    "header": Target(lambda data: read_json_object(data, name="model.json"), lambda: _parts(".json")),
    "tensors": Target(lambda data: read_tensors(data, name="bank"), lambda: _parts(".safetensors")),
    "checkpoint": Target(lambda data: read_checkpoint(data, where="f", allow_unknown=True), _torch_files),
    "anomalib": Target(_anomalib, _anomalib_checkpoints),
    "tarball": Target(lambda data: read_tfjs(data, where="f"), _tarballs),
    "image": Target(lambda data: decode(data, where="f"), _images),
    "manifest_csv": Target(_manifest(".csv"), lambda: [CSV]),
    "manifest_json": Target(_manifest(".jsonl"), lambda: [JSON_LINES]),
    "store": Target(_store, _stores),
    "snapshot": Target(_snapshot, _snapshots),
    "wheel": Target(lambda data: wheel_member(data, where="f"), _wheels),
}
