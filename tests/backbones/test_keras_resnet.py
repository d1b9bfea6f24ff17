"""Reading a TensorFlow.js model out of a tarball, complete and damaged; and building ResNet-50 from it."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import numpy as np
import pytest

from blemish import backbones, runtime
from blemish.backbones.keras_resnet import read_tfjs
from blemish.errors import ModelFileError
from tests import random_weights
from tests.backbones.test_architectures import differences

WEIGHTS = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "a/bias": np.ones(1, np.float32)}


def manifest(weights: dict[str, np.ndarray], paths: list[str]) -> dict[str, Any]:
    entries = [{"name": name, "shape": list(array.shape), "dtype": "float32"} for name, array in weights.items()]
    return {"format": "layers-model", "weightsManifest": [{"paths": paths, "weights": entries}]}


def tarball(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def packed(weights: dict[str, np.ndarray] = WEIGHTS, **changes: Any) -> bytes:
    """Two shards cut in the middle of a number, and a file that leaves the folder when unpacked."""
    numbers = b"".join(array.astype("<f4").tobytes() for array in weights.values())
    cut = len(numbers) // 2 + 1
    model = manifest(weights, ["shard1.bin", "shard2.bin"]) | changes
    return tarball(
        {
            "../../outside": b"never written",
            "package/net/shard2.bin": numbers[cut:],
            "package/net/shard1.bin": numbers[:cut],
            "package/net/model.json": json.dumps(model).encode(),
        }
    )


def test_weights_across_shards():
    read = read_tfjs(packed(), where="")
    assert read.keys() == WEIGHTS.keys()
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(read[name], array)


def test_resnet50_from_a_tarball(tmp_path):
    path = tmp_path / "net.tgz"
    path.write_bytes(packed(random_weights.keras_resnet50(7)))
    built = backbones.build("resnet50", weights=path)
    assert (built.channels, built.strides) == ((64, 128), (8, 16))
    running = runtime.load(built.model, threads=1)
    maps = running.run(random_weights.image(8, 96, 128))
    assert differences("keras_resnet50/96x128", ["layer2", "layer3"], maps) < 1e-4


def entry(**changes: Any) -> list[dict[str, Any]]:
    weight = {"name": "a", "shape": [7], "dtype": "float32"} | changes
    return [{"paths": ["shard1.bin", "shard2.bin"], "weights": [weight]}]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x1f\x8b", "expected a complete .tgz"),
        (packed()[:-30], "expected a complete .tgz"),
        (tarball({"a": b""}), "expected one model.json, got 0"),
        (tarball({"a/model.json": b"", "b/model.json": b""}), "expected one model.json, got 2"),
        (tarball({"model.json": b"{"}), "expected a JSON object, got Expecting property name"),
        (tarball({"model.json": b"[]"}), "expected a JSON object, got list"),
        (packed(weightsManifest=entry(dtype="uint8")), "got ValueError a weight that is not float32"),
        (packed(weightsManifest=entry(quantization={})), "got ValueError a weight that is not float32"),
        (packed(weightsManifest=entry(name=1)), "got ValueError a weight that is not float32"),
        (packed(weightsManifest=entry(shape=[-7])), "got ValueError an impossible shape"),
        (packed(weightsManifest=entry(shape=[1 << 40])), "got ValueError an impossible shape"),
        (packed(weightsManifest=entry(shape=[1 << 20] * 4)), "expected 4835703278458516698824704 bytes of weights"),
        (packed(weightsManifest=entry(shape=[8])), "expected 32 bytes of weights, got 28"),
        (packed(weightsManifest=[{"paths": ["../x"], "weights": []}]), r"expected \.\./x in the tarball, got nothing"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_tarballs_that_are_refused(data, error):
    with pytest.raises(ModelFileError, match=f"weights: .*{error}.*, in odd.tgz|{error}.*, in odd.tgz"):
        read_tfjs(data, where="odd.tgz")


def test_a_bomb_is_refused_by_its_header():
    with pytest.raises(ModelFileError, match=r"expected at most 10000 bytes unpacked, got more, in bomb.tgz"):
        read_tfjs(tarball({"a": bytes(1_000_000)}), where="bomb.tgz", max_unpacked_bytes=10_000)
