"""The commands of the store of defects: index, similar, suggest, label, groups, reindex."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blemish.cli import options as option
from blemish.cli.console import Bars, say
from blemish.errors import ImageError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blemish.detectors.registry import Detector
    from blemish.search.encoder import Described
    from blemish.search.records import Match
    from blemish.search.store import DefectStore
    from blemish.types import Sample

app = typer.Typer()

StorePlace = Annotated[
    str, typer.Option("--store", help="Folder of the store, or the URL of a Qdrant server (key in QDRANT_API_KEY).")
]
Part = Annotated[str | None, typer.Option("--category", help="Kind of part, where the store holds several.")]
Good = Annotated[Path | None, typer.Option(help="Good images, once, if those that the model was fitted on have moved.")]
Force = Annotated[bool, typer.Option("--force", help="Take the most anomalous place also below the threshold.")]
Neighbours = Annotated[int, typer.Option("-k", help="How many at most.")]


@app.command()
def index(
    model: Path,
    images: Path,
    store: StorePlace,
    category: Part = None,
    labels: Annotated[
        str, typer.Option(help="from-folders: an image's label is its folder's name. none: no labels.")
    ] = "none",
    good: Good = None,
    force: Force = False,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Store the anomalous regions of images. Example: blemish index model old/ --store s --labels from-folders"""
    if labels not in {"none", "from-folders"}:
        raise typer.BadParameter(f"{labels} is neither none nor from-folders", param_hint="--labels")
    samples = _samples(images)
    bars, problems, rows = Bars(), [], []
    with _opened(store, category, _detector(model, threads), good, create=True) as opened:
        for done, sample in enumerate(samples, start=1):
            label = sample.path.parent.name if labels == "from-folders" else None
            try:
                rows.append(opened.add(sample, label=label, labelled_by="folder" if label else None, force=force))
            except ImageError as error:
                problems.append(str(error))
            bars("indexing", done, len(samples))
        opened.optimise()
        n_regions = opened.count(category=opened.category)
    empty = [one.path for one in rows if not one.ids]
    document = {
        "store": store,
        "category": opened.category,
        "images": len(rows),
        "new_regions": sum(one.new for one in rows),
        "regions": n_regions,
        "without_region": empty,
        "left_out": problems,
    }
    said = [f"{len(rows)} images, {document['new_regions']} new regions; the store has {n_regions}."]
    if empty:
        said.append(f"{len(empty)} images have nothing above the threshold; --force stores their most anomalous place.")
    say(as_json, document, *said, *problems)
    if problems:
        raise typer.Exit(2)


@app.command()
def similar(
    model: Path,
    image: Path,
    store: StorePlace,
    k: Neighbours = 5,
    category: Part = None,
    label: Annotated[str | None, typer.Option(help="Only those with this label.")] = None,
    since: Annotated[str | None, typer.Option(help="Only those added since, such as 2026-11-25.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG to write: the query and what was found.")] = None,
    force: Force = False,
    as_json: option.AsJson = False,
) -> None:
    """Show past defects like the one in an image. Example: blemish similar model part.png --store s --sheet out.png"""
    from blemish.search.encoder import worst_region

    loaded = _detector(model, None)
    with _opened(store, category, loaded) as opened:
        described = opened.describe(image, force=force)
        region = worst_region(described)
        found = opened.similar(region, k, label=label, since=since)
        suggested = opened.suggest(region)
    if sheet is not None:
        _write_sheet(sheet, described, found, loaded.bit_depth)
    suggestion = {name: value for name, value in suggested.to_dict().items() if name != "matches"}
    document = {
        "query": _region(described),
        "matches": [one.to_dict() for one in found],
        "suggestion": suggestion,
    }
    lines = [f"{one.similarity:.3f}  {one.defect.label or '-':20}  {one.defect.path}  {one.defect.id}" for one in found]
    say(as_json, document, *(lines or ["The store has none to compare with."]), _verdict(suggestion))


@app.command()
def label(
    store: StorePlace,
    ids: Annotated[list[str], typer.Argument(help="Ids of stored defects, as `similar` and `groups` print them.")],
    label: Annotated[
        str | None, typer.Option("--as", help="The defect type; leave out to take the label away.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who says so; by default the user's name.")] = None,
    as_json: option.AsJson = False,
) -> None:
    """Say what stored defects are called. Example: blemish label --store s --as scratch ID ID"""
    who = by or os.environ.get("USER") or os.environ.get("USERNAME")
    with _opened(store, None) as opened:
        n = opened.label(ids, label, by=who if label is not None else None)
    say(as_json, {"labelled": n, "label": label, "by": who}, f"{n} labelled {label or '-'}.")


@app.command()
def groups(
    store: StorePlace,
    category: Part = None,
    least_similarity: Annotated[
        float | None, typer.Option(help="How similar two groups are to be one; by default as is usual in the store.")
    ] = None,
    as_json: option.AsJson = False,
) -> None:
    """Show the stored defects in groups that look alike. Example: blemish groups --store s"""
    with _opened(store, None) as opened:
        names = [category] if category else list(opened.categories)
        made = {name: opened.groups(category=name, least_similarity=least_similarity) for name in names}
    lines = [
        f"{name}  {len(one.members):5} regions, {one.n_unlabelled:5} unlabelled  {one.name or '(no name yet)':20}  "
        f"{one.similarity:.2f}  {one.members[0].id}  {one.members[0].path}"
        for name, found in made.items()
        for one in found
    ]
    say(as_json, {name: [one.to_dict() for one in found] for name, found in made.items()}, *lines)


@app.command()
def reindex(
    model: Path,
    store: StorePlace,
    category: Part = None,
    good: Good = None,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Describe stored images again with another model; labels are kept. Example: blemish reindex model --store s"""
    with _opened(store, None, _detector(model, threads), good) as opened:
        found = opened.reindex(category=category, progress=Bars())
        opened.optimise()
    lines = [f"{found.images} images described again, {found.regions} regions.", *found.left_out]
    say(as_json, {**found._asdict(), "left_out": list(found.left_out)}, *lines)
    if found.left_out:
        raise typer.Exit(2)


@app.command()
def suggest(
    model: Path,
    images: list[Path],
    store: StorePlace,
    category: Part = None,
    force: Force = False,
    as_json: option.AsJson = False,
) -> None:
    """Say what defects may be called, or that they are new. Example: blemish suggest model part.png --store s"""
    rows, lines, n_broken = [], [], 0
    with _opened(store, category, _detector(model, None)) as opened:
        for path in images:
            try:
                found = opened.suggest(path, force=force)
            except (ImageError, InputError) as error:
                n_broken += 1
                print(f"error: {error}", file=sys.stderr)
                continue
            said = {name: value for name, value in found.to_dict().items() if name != "matches"}
            rows.append({"path": str(path), **said})
            lines.append(f"{path}: {_verdict(said)}")
    say(as_json, rows, *lines)
    if n_broken:
        raise typer.Exit(2)


def _detector(folder: Path, threads: int | None) -> Detector:
    from blemish.detectors.registry import load_detector

    return load_detector(folder, threads=threads)


def _opened(
    store: str,
    category: str | None,
    model: Detector | None = None,
    good: Path | None = None,
    *,
    create: bool = False,
) -> DefectStore:
    """Return the store, which must be there unless `create`: a misspelt name has no answers."""
    from blemish.search.store import DefectStore

    images = None if good is None else _samples(good)
    if store.startswith(("http://", "https://")):
        key = os.environ.get("QDRANT_API_KEY")
        return DefectStore(url=store, api_key=key, model=model, category=category, good=images, create=create)
    return DefectStore(store, model=model, category=category, good=images, create=create)


def _samples(images: Path) -> Sequence[Sample]:
    """Return the images of a folder and its sub-folders, or the one image, or those of a manifest."""
    from blemish.data.discovery import IMAGE_ENDINGS, list_images, no_images
    from blemish.types import Sample

    if not images.is_dir():
        return [Sample(images)]
    found, _ = list_images(images, IMAGE_ENDINGS)
    if not found:
        raise no_images("images", [images], IMAGE_ENDINGS)
    return [Sample(path) for path in found]


def _region(described: Described) -> dict[str, Any]:
    one = described.regions[0]
    shown = {"box": list(one.region.box), "area_px": one.region.area_px, "score": one.region.score}
    return {"path": str(described.path), "sha256": described.sha256, "forced": one.forced, **shown}


def _verdict(suggested: dict[str, Any]) -> str:
    if suggested["never_seen"]:
        share = "" if suggested["p_value"] is None else f" (p {suggested['p_value']:.3f})"
        return f"Never seen before{share}."
    if suggested["label"] is None:
        return "Nothing near it has a label yet."
    return f"Probably {suggested['label']}: {100 * suggested['confidence']:.0f} % of the neighbours' votes."


def _write_sheet(path: Path, described: Described, found: Sequence[Match], bit_depth: int | None) -> None:
    from blemish.imaging.decode import load, save
    from blemish.search.contact_sheet import sheet

    region = described.regions[0].region
    assert described.path is not None
    image = load(described.path, bit_depth=bit_depth)
    title = f"Most like {described.path.name}"
    save(path, sheet(image, region.box, region.contour, found, title=title, bit_depth=bit_depth))
    print(f"sheet: {path}", file=sys.stderr)
