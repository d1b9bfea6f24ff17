"""How far imported detectors are from what anomalib itself said: the golden numbers of tests/golden/anomalib.

python -m benchmarks.parity
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

parser = argparse.ArgumentParser(description=__doc__)
add_json_option(parser, __file__)
asked = parser.parse_args()
rows = []
print("case          largest error of a score, of a map's pixel; both in parts of the largest value of the map")
for case in ("resnet18", "lite0", "older", "efficientad"):
    golden = np.load(GOLDEN / f"{case}.npz")
    with tempfile.TemporaryDirectory() as folder:
        model = import_checkpoint(checkpoint(case, Path(folder) / "model.ckpt"))
    scores, maps = [], []
    for one, score, kept in zip(scored(), golden["scores"], golden["maps"], strict=True):
        if isinstance(model, Patchcore):
            features = model.fitted.extractor.features(one)
            seen = model.fitted.geometry.network_map(model.fitted.scorer.distances(features).distances)
        else:
            joined = model.fitted.maps
            seen = joined.joined(*joined.raw(joined.geometry.prepare(one)))
        scores.append(abs(model.predict(one).score - score) / kept.max())
        maps.append(np.abs(seen[::STEP, ::STEP] - kept).max() / kept.max())
    rows.append({"case": case, "largest error of a score": max(scores), "largest error of a map": max(maps)})
    print(f"{case:12}  {max(scores):.1e}  {max(maps):.1e}")
formats = {"largest error of a score": [".1e"], "largest error of a map": [".1e"]}
notes = "Errors are relative to the map's largest value."
write(asked.json, [table("Imported detectors against anomalib", rows, formats=formats, notes=notes)])
