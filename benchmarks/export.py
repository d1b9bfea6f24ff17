"""Time exported models beside `predict`, in the same run: ONNX Runtime alone, and OpenVINO where it is installed.

    python benchmarks/export.py models/bottle DATA/mvtec/bottle/test models/hazelnut DATA/hazelnut_jpg/test

Each model is exported and compared with its folder on the images; then all predict the same decoded images in turns, on
one thread. Processor time counts: other work on the machine disturbs it less than wall time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from results import add_json_option, table, write

import blemish
from blemish.data.discovery import find_images
from blemish.imaging.decode import load
from blemish.runtime.telemetry import without_openvino

Predict = Callable[[np.ndarray], object]


def in_onnx_runtime(path: Path) -> Predict:
    import onnxruntime as ort  # after blemish, which tells it to send nothing

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options)
    return lambda image: session.run(None, {"image": image[None]})


def in_openvino(path: Path) -> Predict:
    with without_openvino():
        import openvino as ov

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = ov.Core().compile_model(str(path), "CPU", options).create_infer_request()
    return lambda image: request.infer({"image": image[None]})


def milliseconds(predict: Predict, image: np.ndarray) -> float:
    start = time.process_time()
    predict(image)
    return 1000 * (time.process_time() - start)


def measured_rows(folder: Path, paths: list[Path], rounds: int, out: Path) -> list[dict]:
    """Rounds of every engine in turn on the same images."""
    detector = blemish.load(folder, threads=1)
    images = [load(path, bit_depth=detector.bit_depth) for path in paths]
    kinds = {"exported, ONNX Runtime": ({}, in_onnx_runtime)}
    if detector.name == "patchcore":
        kinds["exported with --int8, ONNX Runtime"] = ({"int8": True}, in_onnx_runtime)
    if detector.name == "efficientad":
        kinds["exported with --plain, ONNX Runtime"] = ({"plain": True}, in_onnx_runtime)
    try:
        import openvino  # noqa: F401

        kinds["exported, OpenVINO"] = ({"to": "openvino"}, in_openvino)
    except ImportError:
        print("openvino is not installed")
    engines: dict[str, Predict] = {"predict": detector.predict}
    differences = {"predict": 0.0}
    for i, (name, (arguments, start)) in enumerate(kinds.items()):
        path = out / f"{folder.name}{i}{'.xml' if arguments.get('to') else '.onnx'}"
        # Compared on the very images that are timed, defective ones among them.
        differences[name] = blemish.export(detector, path, images=images, threads=1, **arguments).score_difference
        engines[name] = start(path)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds + 1):
        for image in images:
            for name, predict in engines.items():
                times[name].append(milliseconds(predict, image))
    rows = []
    for name, all_times in times.items():
        ms = all_times[len(images) :]  # without the first round
        ratio = float(np.median(ms)) / float(np.median(times["predict"][len(images) :]))
        figures = {"ms": [float(np.median(ms)), min(ms)], "times predict": ratio, "score difference": differences[name]}
        rows.append({"model": folder.name, "engine": name, **figures})
        print(
            f"{folder.name:12} {name:36} {np.median(ms):7.1f} ({min(ms):.1f}) ms  {ratio:.2f}  {differences[name]:.1e}"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, nargs="+", help="model folder and folder of images, in turns")
    parser.add_argument("--images", type=int, default=8, help="images of each folder, evenly spread")
    parser.add_argument("--rounds", type=int, default=3, help="predictions of each image")
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    with tempfile.TemporaryDirectory() as out:
        for folder, place in zip(asked.pairs[::2], asked.pairs[1::2], strict=True):
            found = find_images(place).images
            paths = [found[i] for i in np.linspace(0, len(found) - 1, min(asked.images, len(found))).astype(int)]
            rows += measured_rows(folder, paths, asked.rounds, Path(out))
    notes = (
        "Processor time of one image of 512 x 512 from its pixels, one thread: median and least, in milliseconds. "
        "score difference: the largest from `predict`, relative."
    )
    formats = {"ms": [".1f", ".1f"], "times predict": [".2f"], "score difference": [".0e"]}
    title = "Exported models beside `predict`"
    write(asked.json, [table(title, rows, formats=formats, notes=notes)])


if __name__ == "__main__":
    main()
