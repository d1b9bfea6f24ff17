"""Similarity search of defects with Qdrant: store labelled defects, then query by others.

    python examples/similarity_search.py                                              # on images that Blemish draws
    python examples/similarity_search.py --root datasets/MVTecAD --categories bottle

Every second defective image of a category is stored with its type; the others are queries. There is one vector for
each anomalous region: of the defect, not of the part's look. The store is a folder, or on a server (--url).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from blemish import DefectStore, Engine, MVTec, Patchcore
from blemish.data.datasets import categories as all_categories
from blemish.data.synthetic.demo import make_demo
from blemish.imaging.decode import load, save
from blemish.search.contact_sheet import sheet

K = 5

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--root", type=Path, help="folder of categories in MVTec AD's layout")
parser.add_argument("--categories", nargs="+", help="which of them; all by default")
parser.add_argument("--url", help="of a Qdrant server, such as http://localhost:6333; a folder by default")
parser.add_argument("--out", type=Path, default=Path("results/similarity_search"), help="folder for store and figures")
args = parser.parse_args()
root = args.root or make_demo(args.out / "demo", n_defective=8)

results = {}
for category in args.categories or all_categories(root):
    datamodule = MVTec(root=root, category=category)
    model = Patchcore(pre_trained=True)
    Engine().fit(model=model, datamodule=datamodule)
    defective = [sample for sample in datamodule.test if sample.defect != "good"]
    place = {"url": args.url} if args.url else {"folder": args.out / "store" / category}

    with DefectStore(**place, model=model, category=category) as store:
        for sample in defective[::2]:
            store.add(sample, label=sample.defect, force=True)
        queries = defective[1::2]
        precisions, right, shown = [], [], set()
        for sample in queries:
            region = store.encode(sample, force=True).regions[0]
            matches = store.similar(region, K)
            precisions.append(sum(match.defect.label == sample.defect for match in matches) / max(1, len(matches)))
            right.append(store.suggest(region).label == sample.defect)
            if sample.defect not in shown:  # one sheet per type
                shown.add(sample.defect)
                title = f"{category}: most similar to this {sample.defect}"
                page = sheet(load(sample.path), region.region.box, region.region.contour, matches, title=title)
                save(args.out / category / f"{sample.defect}.png", page)
    results[category] = {
        f"precision_at_{K}": sum(precisions) / len(precisions),
        "suggested_right": sum(right) / len(right),
        "n_stored": float(len(defective[::2])),
        "n_queries": float(len(queries)),
    }
    print(f"{category}:", {name: round(value, 3) for name, value in results[category].items()})

names = next(iter(results.values()))
average = {name: round(sum(one[name] for one in results.values()) / len(results), 3) for name in names}
print("average:", average)
print(f"figures: {args.out}")
