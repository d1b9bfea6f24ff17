"""PatchCore on one or several categories, as the tutorial for anomalib has it: fit, test, look at the figures.

python examples/patchcore.py                                              # on images that Blemish draws
python examples/patchcore.py --root datasets/MVTecAD --categories grid tile leather
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from blemish import Engine, MVTec, Patchcore
from blemish.data.datasets import categories as all_categories
from blemish.data.synthetic.demo import make_demo
from blemish.evaluation import load_nearest_good
from blemish.imaging.decode import load, save
from blemish.visualization import figure

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--root", type=Path, help="folder of categories in MVTec AD's layout")
parser.add_argument("--categories", nargs="+", help="which of them; all by default")
parser.add_argument("--out", type=Path, default=Path("results/patchcore"), help="folder for the figures")
args = parser.parse_args()
root = args.root or make_demo(args.out / "demo")

results = {}
for category in args.categories or all_categories(root):
    # train_batch_size=, eval_batch_size= and num_workers= are taken too, with a warning: there are no batches to set.
    datamodule = MVTec(root=root, category=category)
    model = Patchcore(pre_trained=True, coreset_sampling_ratio=0.1, num_neighbors=9)
    engine = Engine()

    start = time.perf_counter()
    engine.fit(model=model, datamodule=datamodule)
    print(f"{category}: fitted on {len(datamodule.train)} good images in {time.perf_counter() - start:.1f} s")
    (results[category],) = engine.test(model=model, datamodule=datamodule)
    print({name: round(value, 3) for name, value in results[category].items()})

    # One figure for the first image of each kind.
    for defect, sample in {sample.defect: sample for sample in reversed(datamodule.test)}.items():
        prediction = model.predict(sample)
        title = f"{category}: {defect}, score {prediction.score:.1f} of {prediction.threshold:.1f}"
        good_image = load_nearest_good(prediction.nearest_good, None)
        drawn = figure(load(sample.path), prediction, title=title, good_image=good_image)
        save(args.out / category / f"{defect}.png", drawn)

shared = set.intersection(*(set(one) for one in results.values()))
average = {name: round(sum(one[name] for one in results.values()) / len(results), 3) for name in sorted(shared)}
print("average:", average)
print(f"figures: {args.out}")
