"""What one output of EfficientAD's networks sees: the sums that the tutorial does by hand, and an image of them.

python examples/receptive_field.py                                   # on an image that Blemish draws
python examples/receptive_field.py --root datasets/MVTecAD --categories grid
"""

from __future__ import annotations

import argparse
from pathlib import Path

from blemish.data.datasets import MVTecAD
from blemish.data.datasets import categories as all_categories
from blemish.data.synthetic.demo import make_demo
from blemish.detectors.efficientad.pdn import layers
from blemish.imaging.decode import load, save
from blemish.imaging.resize import resize
from blemish.ops.receptive_field import output_sizes, receptive_field
from blemish.visualization import contact_sheet

SIZE = 256  # rows and columns of the networks' input

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--root", type=Path, help="folder of categories in MVTec AD's layout")
parser.add_argument("--categories", nargs="+", help="which of them; the first by default")
parser.add_argument("--out", type=Path, default=Path("results/receptive_field"), help="folder for the figures")
args = parser.parse_args()
root = args.root or make_demo(args.out / "demo", n_train=2, n_test=1, n_defective=1)

results = {}
for model_size in ("small", "medium"):
    stack = layers(model_size)
    print(f"PDN-{model_size[0].upper()} on {SIZE} x {SIZE} pixels")
    print("layer     kernel  stride  outputs  sees  one output to the next")
    for i, (layer, outputs) in enumerate(zip(stack, output_sizes(stack, SIZE), strict=True), start=1):
        field = receptive_field(stack[:i])
        print(f"{layer.name:8} {layer.kernel:7} {layer.stride:7} {outputs:8} {field.size:5} {field.stride:23}")
    field, n = receptive_field(stack), output_sizes(stack, SIZE)[-1]
    unseen = SIZE - field.span(n - 1)[1]
    results[model_size] = {"receptive_field": field.size, "stride": field.stride, "outputs": n, "unseen": unseen}
    print(results[model_size])
average = {name: sum(one[name] for one in results.values()) / len(results) for name in results["small"]}
print("average:", average)

field, n = receptive_field(layers("small")), output_sizes(layers("small"), SIZE)[-1]
for category in args.categories or all_categories(root)[:1]:
    image = resize(load(MVTecAD(root, category).train[0].path), (SIZE, SIZE))
    seen, captions = [], []
    for row, column in ((0, 0), (n // 2, n // 2), (n // 2, n // 2 + 1), (n - 1, n - 1)):
        (top, bottom), (left, right) = field.span(row, SIZE), field.span(column, SIZE)
        shown = image // 3  # what the output does not see is dark
        shown[top:bottom, left:right] = image[top:bottom, left:right]
        seen.append(shown)
        captions.append(f"output {row}, {column}: rows {top}-{bottom - 1}, columns {left}-{right - 1}")
    title = f"{category}: what outputs of PDN-S see, {field.size} x {field.size} px"
    save(args.out / f"{category}.png", contact_sheet(seen, captions, columns=2, size_px=360, title=title))
print(f"figures: {args.out}")
