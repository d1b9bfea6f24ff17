"""Makes `golden/store.tar.xz`, a store of defects of the frozen model `patchcore`.

    PYTHONPATH=FOLDER_OF_0.1.0 python tests/contract/make_golden_store.py

Run it only with the version that the store is to speak for, as `make_golden`. The good images' statistics are rounded
to 8 bits of mantissa, and GNU tar writes the holes of sparse files, so that the file is small.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from blemish import DefectStore, Patchcore

HERE = Path(__file__).parent


def main() -> None:
    from blemish.search_describe import Describer  # of 0.1.0

    spec = importlib.util.spec_from_file_location("drawn", HERE / "drawn.py")
    drawn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawn)
    with tempfile.TemporaryDirectory() as work:
        with zipfile.ZipFile(HERE / "golden" / "patchcore.zip") as file:
            file.extractall(Path(work) / "model")
        describer = Describer(Patchcore.load(Path(work) / "model", threads=1))
        looks = describer.learn([drawn.good(seed) for seed in range(24)])
        scaling = {name: affine._replace(weight=rounded(affine.weight)) for name, affine in looks.scaling.items()}
        describer.good = dataclasses.replace(looks, scaling=scaling)
        with DefectStore(Path(work) / "store", model=describer, category="stripes") as store:
            for seed in (200, 201):
                for label, make in (("scratch", drawn.scratched), ("blotch", drawn.blotched)):
                    store.add(make(seed), label=label, labelled_by="Ann", force=True)
        packed = HERE / "golden" / "store.tar.xz"
        subprocess.run(
            ["tar", "--sparse", "-I", "xz -9e", "-C", work, "-cf", str(packed), "store"],
            check=True,
        )


def rounded(array: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(array).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


if __name__ == "__main__":
    main()
