"""What a teacher's features are worth: image AUROC of nearest neighbours, beside random weights and the source network.

    python benchmarks/teacher.py --root DATA --categories mvtec/bottle hazelnut_jpg casting --json out.json
    python benchmarks/teacher.py --root DATA/mvtec --categories grid --teachers early.safetensors late.safetensors

Each image becomes features at the places of a PDN; channels are standardised over the good training images; a bank
of random training patches is kept; an image's score is the mean distance of its ten most distant patches to their
nearest bank rows. No student is trained: this says which teacher tells patches apart, not what EfficientAD reaches.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from results import add_json_option, table, write

from blemish.data.datasets import MVTecAD
from blemish.detectors.efficientad.distillation.targets import Source, TargetSettings
from blemish.detectors.efficientad.pdn import pdn, pdn_shapes
from blemish.detectors.efficientad.teacher import load_teacher
from blemish.imaging.decode import load, resize
from blemish.metrics.classification import auroc
from blemish.ops.neighbors import MemoryIndex

BANK = 8000
HIGHEST = 10


def of_state(state, size):
    """Return a function from an RGB image to the (h, w, 384) features of a teacher."""
    import torch

    network = pdn(size).eval().to(memory_format=torch.channels_last)
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})

    def features(image):
        with torch.inference_mode():
            tensor = torch.from_numpy(image)[None].permute(0, 3, 1, 2).float() / 255
            return network(tensor.contiguous(memory_format=torch.channels_last))[0].permute(1, 2, 0).numpy()

    return features


def random_state(size, seed=0):
    """Return weights as torch initialises them: uniform, by the number of inputs."""
    rng = np.random.default_rng(seed)
    state, inputs = {}, 1
    for name, shape in pdn_shapes(size).items():
        inputs = np.prod(shape[1:]) if len(shape) == 4 else inputs  # a bias comes behind its weight
        state[name] = rng.uniform(-1, 1, shape).astype(np.float32) * inputs**-0.5
    return state


def of_source(settings):
    source = Source(settings)
    return lambda image: source.features(image, image.shape[:2])


def images(root, category, asked):
    """Return training, good and defective images, resized, a random choice of each."""
    path = Path(category)
    data = MVTecAD(root / path.parent, path.name)
    rng = np.random.default_rng(asked.seed)
    groups = [
        (data.train, asked.train),
        ([sample for sample in data.test if not sample.is_defective], asked.test),
        ([sample for sample in data.test if sample.is_defective], asked.test),
    ]
    return [
        [resize(load(samples[i].path), (asked.size, asked.size)) for i in rng.permutation(len(samples))[:n]]
        for samples, n in groups
    ]


def judge(features, groups, seed):
    train, good, bad = groups
    start = time.perf_counter()
    maps = [features(image)[::2, ::2] for image in train]
    rows = np.concatenate([one.reshape(-1, one.shape[2]) for one in maps])
    mean, deviation = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    chosen = np.random.default_rng(seed).permutation(len(rows))[:BANK]
    index = MemoryIndex(np.ascontiguousarray((rows[chosen] - mean) / deviation, dtype=np.float32))

    def score(image):
        asked = (features(image)[::2, ::2].reshape(-1, rows.shape[1]) - mean) / deviation
        distances = index.search(np.ascontiguousarray(asked, dtype=np.float32)).distances[:, 0]
        return float(np.sort(distances)[-HIGHEST:].mean())

    scores = np.array([score(image) for image in [*good, *bad]])
    labels = np.arange(len(scores)) >= len(good)
    return {"image_AUROC": float(auroc(scores, labels)), "took_s": time.perf_counter() - start}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--network", default="small", help="small or medium")
    parser.add_argument("--teachers", nargs="*", type=Path, help="files beside the shipped one")
    parser.add_argument("--no-source", action="store_true", help="leave the source network out")
    parser.add_argument("--no-shipped", action="store_true", help="leave the shipped teacher out")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--train", type=int, default=40, help="training images")
    parser.add_argument("--test", type=int, default=30, help="good and defective images, each")
    parser.add_argument("--seed", type=int, default=0)
    add_json_option(parser, __file__)
    asked = parser.parse_args()
    judged = {"random weights": of_state(random_state(asked.network, asked.seed), asked.network)}
    for file in asked.teachers or []:
        judged[str(file)] = of_state(load_teacher(asked.network, file).state, asked.network)
    if not asked.no_shipped:
        judged["shipped teacher"] = of_state(load_teacher(asked.network).state, asked.network)
    if not asked.no_source:
        settings = TargetSettings()
        judged[f"source: {settings.backbone} {', '.join(settings.layers)}"] = of_source(settings)
    rows = {name: {} for name in judged}
    for category in asked.categories:
        groups = images(asked.root, category, asked)
        print(f"{category}: {', '.join(str(len(group)) for group in groups)} training, good and defective images")
        for name, features in judged.items():
            rows[name][category] = judge(features, groups, asked.seed)
            print(f"  {name:48} image AUROC {rows[name][category]['image_AUROC']:.3f}", flush=True)
    facts = {name: getattr(asked, name) for name in ("network", "size", "train", "test", "seed")}
    shown = [
        {"features of": name}
        | {Path(category).name: found["image_AUROC"] for category, found in row.items()}
        | {"mean": float(np.mean([found["image_AUROC"] for found in row.values()]))}
        for name, row in rows.items()
    ]
    formats = {name: [".3f"] for name in (*(Path(category).name for category in asked.categories), "mean")}
    note = f"Image AUROC. At most {asked.test} good and {asked.test} defective images a set."
    write(
        asked.json,
        [table("Nearest neighbors in a teacher's features", shown, formats=formats, notes=note)],
        {**facts, "rows": rows},
    )


if __name__ == "__main__":
    main()
