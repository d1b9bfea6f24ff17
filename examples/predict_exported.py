"""Predict with a model that `blemish export` wrote, by ONNX Runtime and OpenCV alone: Blemish need not be installed.

blemish export model --out model.onnx
python examples/predict_exported.py model.onnx part.png --out marked
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import cv2

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime would send usage data to Microsoft
import onnxruntime as ort

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", type=Path, help="exported model, .onnx")
parser.add_argument("images", type=Path, nargs="+", help="8-bit images")
parser.add_argument("--out", type=Path, help="folder for images with the anomalous regions outlined")
args = parser.parse_args()

session = ort.InferenceSession(str(args.model))
threshold = float(session.get_modelmeta().custom_metadata_map["threshold"])
for path in args.images:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    batch = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[None]
    score, label, p_value, anomaly_map, mask = (output[0] for output in session.run(None, {"image": batch}))
    print(f"{path}: {'DEFECTIVE' if label else 'good'}, score {score:.4f} of {threshold:.4f}, p {p_value:.2g}")
    if args.out is not None:
        contours, _ = cv2.findContours(mask.astype("uint8"), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(image, contours, -1, (0, 0, 255), 2)
        args.out.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(args.out / f"{path.stem}.png"), image)
