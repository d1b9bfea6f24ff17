"""Writer of Lightning checkpoints without torch: plain values, and NumPy arrays as tensors.

The format is that of torch 1.6 and later: a zip with a pickle of the objects and one file per tensor. The pickle is
written opcode by opcode and names no functions but torch's own for tensors, so that `weights_only=True` reads it.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import InputError, message

LIGHTNING = "2.6.0"  # the oldest version that anomalib 2.7 accepts
# torch/storage.py: the storage class of each dtype.
STORAGES = {"float32": "FloatStorage", "int64": "LongStorage", "bool": "BoolStorage"}


def checkpoint_bytes(tree: Mapping[str, Any]) -> bytes:
    """Return the bytes of a checkpoint.

    Args:
        tree: dicts with text keys, lists, tuples, text, numbers, bools, None, and arrays of float32, int64 or bool.
    """
    pickle = _Pickle()
    pickle.value(dict(tree))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        # A fixed date: the same detector gives the same bytes.
        for name, content in (
            ("data.pkl", bytes(pickle.data) + b"."),
            ("byteorder", b"little"),
            *((f"data/{i}", array.tobytes()) for i, array in enumerate(pickle.arrays)),
            ("version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}", (1980, 1, 1, 0, 0, 0)), content)
    return file.getvalue()


def lightning_checkpoint(
    state: Mapping[str, NDArray[Any]], hyper_parameters: Mapping[str, Any], pre_processor: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of a checkpoint as anomalib 2.7 loads it."""
    return {
        "epoch": 1,
        "global_step": 0,
        "pytorch-lightning_version": LIGHTNING,
        "state_dict": state,
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper_parameters,
        "anomalib_pre_processor_config": {"transform": pre_processor},
    }


class _Pickle:
    """A pickle of protocol 2 under construction, and the arrays that it refers to."""

    def __init__(self) -> None:
        self.data = bytearray(b"\x80\x02")
        self.arrays: list[NDArray[Any]] = []

    def value(self, value: Any) -> None:
        """Add the opcodes that leave `value` on the stack."""
        if isinstance(value, np.ndarray):
            self._tensor(value)
        elif isinstance(value, Mapping):
            self.data += b"}("
            for key, item in value.items():
                self._text(key)
                self.value(item)
            self.data += b"u"
        elif isinstance(value, (list, tuple)):
            self.data += b"](" if isinstance(value, list) else b"("
            for item in value:
                self.value(item)
            self.data += b"e" if isinstance(value, list) else b"t"
        elif value is None or isinstance(value, bool):
            self.data += {None: b"N", True: b"\x88", False: b"\x89"}[value]
        elif isinstance(value, int) and -(2**31) <= value < 2**31:
            self.data += b"J" + struct.pack("<i", value)
        elif isinstance(value, float):
            self.data += b"G" + struct.pack(">d", value)
        else:
            self._text(value)

    def _values(self, *values: Any) -> None:
        for value in values:
            self.value(value)

    def _text(self, value: Any) -> None:
        if not isinstance(value, str):
            raise InputError(message("checkpoint", "plain values and arrays", type(value).__name__))
        encoded = value.encode("utf-8")
        self.data += b"X" + struct.pack("<I", len(encoded)) + encoded

    def _tensor(self, array: NDArray[Any]) -> None:
        """Add torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)."""
        if array.dtype.name not in STORAGES:
            raise InputError(message("checkpoint", f"arrays of {', '.join(STORAGES)}", str(array.dtype)))
        strides = tuple(math.prod(max(size, 1) for size in array.shape[i + 1 :]) for i in range(array.ndim))
        self.data += b"ctorch._utils\n_rebuild_tensor_v2\n(("
        self._text("storage")
        self.data += b"ctorch\n" + STORAGES[array.dtype.name].encode("ascii") + b"\n"
        self._values(str(len(self.arrays)), "cpu", int(array.size))
        self.data += b"tQ"
        self._values(0, array.shape, strides, False)
        self.data += b"ccollections\nOrderedDict\n)RtR"
        self.arrays.append(np.ascontiguousarray(array))
