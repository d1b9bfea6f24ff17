"""The small weight files in tests/golden/torch, as torch itself writes them, and what is in them.

    python -m tests.torch_files            # with torch 2.13 and safetensors

No other test needs torch.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from blemish._io.torch_file import read_checkpoint

FOLDER = Path(__file__).parent / "golden" / "torch"


def load_checkpoint(path: Path, *, allow_unknown: bool = False) -> Any:
    return read_checkpoint(path.read_bytes(), where=path, allow_unknown=allow_unknown)


def expected() -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of each file: every dtype, views, an empty one, one number, and one that is expanded."""
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8
    return {
        "plain": base,
        "turned": base.transpose(2, 0, 1),
        "cut": base[1, 1:, ::2],
        "half": base.astype(np.float16),
        "double": base.astype(np.float64),
        "brain": base * 8,  # bfloat16 holds these integers exactly
        "int64": np.array([-(2**40), 0, 2**40]),
        "int32": np.array([-(2**31), 2**31 - 1], np.int32),
        "int16": np.array([-(2**15), 2**15 - 1], np.int16),
        "int8": np.array([-128, 127], np.int8),
        "uint8": np.array([0, 255], np.uint8),
        "bool": np.array([True, False, True]),
        "number": np.array(7, np.int64),
        "empty": np.zeros((0, 5), np.float32),
        "expanded": np.full((2, 3), 0.5, np.float32),
        "parameter": base[0],
    }


def main() -> None:
    import safetensors.torch
    import torch

    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8
    state: dict[str, Any] = OrderedDict((name, torch.tensor(array)) for name, array in expected().items())
    state |= {"plain": base, "turned": base.permute(2, 0, 1), "cut": base[1, 1:, ::2]}
    state |= {"brain": (base * 8).bfloat16(), "expanded": torch.tensor([[0.5]]).expand(2, 3)}
    state["parameter"] = torch.nn.Parameter(base[0])
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.save(state, FOLDER / "zip.pth")
    torch.save(state, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    checkpoint = {"epoch": 3, "state_dict": state, "pytorch-lightning_version": "2.5", "path": Path("a/b"), "seen": {1}}
    torch.save(checkpoint, FOLDER / "lightning.ckpt")
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
    safetensors.torch.save_file(plain, FOLDER / "plain.safetensors")


if __name__ == "__main__":
    main()
