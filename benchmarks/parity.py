"""Largest errors of imported detectors against anomalib's own scores and maps, those of tests/golden/anomalib.

    python -m benchmarks.parity

anomalib 2.6.0 and 2.7.0 made them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.results import add_json_option, table, write
from blemish.detectors.patchcore.detector import Patchcore
from blemish.interop.anomalib.checkpoints import import_checkpoint
from tests.anomalib_twins import GOLDEN, STEP, checkpoint, scored

CASES = {
    "resnet18": "PatchCore, ResNet-18",
    "lite0": "PatchCore, EfficientNet-Lite0",
    "older": "PatchCore, anomalib 2.6.0 with a transform",
    "efficientad": "EfficientAD",
}
parser = argparse.ArgumentParser(description=__doc__)
add_json_option(parser, __file__)
asked = parser.parse_args()
rows = []
print("case          largest error of a score, of a map's pixel; both in parts of the largest value of the map")
for case, title in CASES.items():
    golden = np.load(GOLDEN / f"{case}.npz")
    with tempfile.TemporaryDirectory() as folder:
        model = import_checkpoint(checkpoint(case, Path(folder) / "model.ckpt"))
    score_errors, map_errors = [], []
    for image, score, kept in zip(scored(), golden["scores"], golden["maps"], strict=True):
        if isinstance(model, Patchcore):
            features = model.fitted.extractor.features(image)
            anomaly_map = model.fitted.geometry.network_map(model.fitted.scorer.distances(features).distances)
        else:
            maps = model.fitted.maps
            anomaly_map = maps.joined(*maps.raw(maps.geometry.prepare(image)))
        score_errors.append(float(abs(model.predict(image).score - score) / kept.max()))
        map_errors.append(float(np.abs(anomaly_map[::STEP, ::STEP] - kept).max() / kept.max()))
    errors = max(score_errors), max(map_errors)
    rows.append({"detector": title, "largest error of a score": errors[0], "largest error of a map": errors[1]})
    print(f"{case:12}  {errors[0]:.1e}  {errors[1]:.1e}")
formats = {"largest error of a score": [".1e"], "largest error of a map": [".1e"]}
notes = "Errors are relative to the map's largest value."
write(asked.json, [table("Imported detectors against anomalib", rows, formats=formats, notes=notes)])
