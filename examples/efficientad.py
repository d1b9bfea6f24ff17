"""EfficientAD on one or several categories, as the tutorial for anomalib has it: train, test, look at the figures.

    python examples/efficientad.py                                              # on images that Blemish draws
    python examples/efficientad.py --root datasets/MVTecAD --categories grid tile leather --budget 30m

Training needs torch (`pip install 'blemish[train]'`), and a step costs more than 38 billion multiplications an image:
with a GPU give `--budget ""`, for the paper's 70,000 steps; on a processor PatchCore is the better choice.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from blemish import EfficientAd, Engine, MVTec
from blemish.data.datasets import categories as all_categories
from blemish.data.synthetic.demo import make_demo
from blemish.imaging.decode import load, save
from blemish.visualization import figure

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--root", type=Path, help="folder of categories in MVTec AD's layout")
parser.add_argument("--categories", nargs="+", help="which of them; all by default")
parser.add_argument("--epochs", type=int, default=1000, help="how often each image is seen at most")
parser.add_argument("--steps", type=int, default=70_000, help="how many steps are made at most")
parser.add_argument("--image-size", type=int, default=256, help="about the side of the network's input in pixels")
parser.add_argument("--budget", default="2m", help='how long a category may take, such as "10m"; "" for no limit')
parser.add_argument("--out", type=Path, default=Path("results/efficientad"), help="folder for the figures")
args = parser.parse_args()
root = args.root or make_demo(args.out / "demo")

results = {}
for category in args.categories or all_categories(root):
    # train_batch_size=, eval_batch_size= and num_workers= are taken too, with a warning: the detector has batch_size=.
    datamodule = MVTec(root=root, category=category)
    settings = {"image_size": args.image_size, "budget": args.budget or None}
    model = EfficientAd(teacher_out_channels=384, model_size="small", lr=1e-4, **settings)
    engine = Engine(max_epochs=args.epochs, max_steps=args.steps)

    start = time.perf_counter()
    engine.fit(model=model, datamodule=datamodule)
    print(f"{category}: {model.summary} {time.perf_counter() - start:.0f} s in all.")
    (results[category],) = engine.test(model=model, datamodule=datamodule)
    print({name: round(value, 3) for name, value in results[category].items()})

    # One figure for the first image of each kind.
    for defect, sample in {sample.defect: sample for sample in reversed(datamodule.test)}.items():
        prediction = model.predict(sample)
        title = f"{category}: {defect}, score {prediction.score:.2f} of {prediction.threshold:.2f}"
        save(args.out / category / f"{defect}.png", figure(load(sample.path), prediction, title=title))

shared = set.intersection(*(set(one) for one in results.values()))
average = {name: round(sum(one[name] for one in results.values()) / len(results), 3) for name in sorted(shared)}
print("average:", average)
print(f"figures: {args.out}")
