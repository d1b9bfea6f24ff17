"""Commands of the store of defects: index, similar, suggest, label, groups, reindex."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blemish.cli import options as option
from blemish.cli.console import Bars, complain, only_ours, say
from blemish.cli.exit_codes import finish
from blemish.errors import ImageError, InputError, message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blemish.detectors.base import AnyDetector
    from blemish.search import AddResult, DefectStore, EncodedImage, Match, Suggestion
    from blemish.types import Sample

app = typer.Typer()

StorePlace = Annotated[
    str, typer.Option("--store", help="Folder of the store, or the URL of a Qdrant server (key in QDRANT_API_KEY).")
]
Category = Annotated[str | None, typer.Option(help="Product category, where the store holds several.")]
Good = Annotated[Path | None, typer.Option(help="Good images, once, if the training images of the model have moved.")]
Force = Annotated[bool, typer.Option("--force", help="Take the most anomalous region also below the threshold.")]
ReadOnly = Annotated[
    bool,
    typer.Option(
        "--read-only",
        help="Answer from a temporary copy of the store's folder; by itself where that can't be written to.",
    ),
]
Neighbors = Annotated[int, typer.Option("-k", help="Number of matches at most.")]


@app.command()
def index(
    model: Path,
    images: Path,
    store: StorePlace,
    category: Category = None,
    labels: Annotated[
        str, typer.Option(help="from-folders: the label of an image is the name of its folder. none: no labels.")
    ] = "none",
    good: Good = None,
    force: Force = False,
    cluster: option.Cluster = None,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Store the anomalous regions of images. Example: blemish index model old/ --store s --labels from-folders"""
    if labels not in {"none", "from-folders"}:
        raise typer.BadParameter(f"{labels} is neither none nor from-folders", param_hint="--labels")
    samples, not_read = _samples(images)
    bars = Bars()
    rows: list[AddResult] = []
    problems: list[str] = []
    with open_store(store, category, _detector(model, threads), good, create=True) as opened_store:
        labelled = [(sample, sample.path.parent.name if labels == "from-folders" else None) for sample in samples]
        if cluster is None:
            results = _added_here(opened_store, labelled, force)
        else:
            results = _added_on(cluster, opened_store, store, model, labelled, force, threads)
        with only_ours():
            for done, added in enumerate(results, start=1):
                if isinstance(added, str):
                    problems.append(added)
                else:
                    rows.append(added)
                bars("indexing", done, len(samples))
        opened_store.optimise()
        n_regions = opened_store.count(category=opened_store.category)
    empty = [added.path for added in rows if not added.ids]
    document = {
        "store": store,
        "category": opened_store.category,
        "images": len(rows),
        "new_regions": sum(added.new for added in rows),
        "regions": n_regions,
        "without_region": empty,
        "left_out": problems,
        "not_read": [str(path) for path in not_read],
    }
    lines = [f"{len(rows)} images, {document['new_regions']} new regions; the store has {n_regions}."]
    if empty:
        lines.append(
            f"{len(empty)} images have nothing above the threshold; --force stores their most anomalous region."
        )
    say(as_json, document, *lines, *problems)
    finish(unread=bool(problems))


def _added_here(
    store: DefectStore, images: Sequence[tuple[Sample, str | None]], force: bool
) -> Iterator[AddResult | str]:
    """Yield what was added of each image, or why nothing was."""
    for sample, label in images:
        try:
            added: AddResult | str = store.add(
                sample, label=label, labelled_by="folder" if label else None, force=force
            )
        except ImageError as error:
            added = str(error)
        yield added


def _added_on(
    cluster: str,
    store: DefectStore,
    place: str,
    model: Path,
    images: Sequence[tuple[Sample, str | None]],
    force: bool,
    threads: int | None,
) -> Iterator[AddResult | str]:
    """Yield the same from all nodes of a cluster."""
    from blemish.cluster import index_many
    from blemish.cluster.connection import check_installed

    check_installed()
    if not is_url(place):
        todo = "Give the URL of a Qdrant server."
        raise InputError(message("store", "one that all nodes reach", "a folder", where=place, todo=todo))
    paths = [(sample.path, label) for sample, label in images]
    address, key = option.address_of(cluster), os.environ.get("QDRANT_API_KEY")
    yield from index_many(
        store, model, paths, url=place, api_key=key, force=force, address=address, threads=threads or 1
    )


@app.command()
def similar(
    model: Path,
    image: Path,
    store: StorePlace,
    k: Neighbors = 5,
    category: Category = None,
    label: Annotated[str | None, typer.Option(help="Only defects with this label.")] = None,
    since: Annotated[str | None, typer.Option(help="Only defects added since, such as 2026-11-25.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG to write: the query and its matches.")] = None,
    force: Force = False,
    read_only: ReadOnly = False,
    as_json: option.AsJson = False,
) -> None:
    """Show past defects like the one in an image. Example: blemish similar model part.png --store s --sheet out.png"""
    from blemish.search import most_anomalous_region

    loaded = _detector(model, None)
    with open_store(store, category, loaded, read_only=read_only or is_read_only(store)) as opened_store:
        encoded = opened_store.encode(image, force=force)
        region = most_anomalous_region(encoded)
        matches = opened_store.similar(region, k, label=label, since=since)
        suggestion = opened_store.suggest(region)
    if sheet is not None:
        _write_sheet(sheet, encoded, matches, loaded.bit_depth)
    document = {
        "query": _query(encoded),
        "matches": [match.to_dict() for match in matches],
        "suggestion": _without_matches(suggestion),
    }
    lines = [f"{cosine:.3f}  {defect.label or '-':20}  {defect.path}  {defect.id}" for defect, cosine in matches]
    say(as_json, document, *(lines or ["The store has no defect to compare with."]), _verdict(suggestion))


@app.command()
def label(
    store: StorePlace,
    ids: Annotated[list[str], typer.Argument(help="Ids of stored defects, as `similar` and `groups` print them.")],
    label: Annotated[str | None, typer.Option("--as", help="The defect type; leave out to remove the label.")] = None,
    by: Annotated[str | None, typer.Option(help="The person who labels; by default the user's name.")] = None,
    as_json: option.AsJson = False,
) -> None:
    """Label stored defects. Example: blemish label --store s --as scratch ID ID"""
    labelled_by = by or os.environ.get("USER") or os.environ.get("USERNAME")
    with open_store(store, None) as opened_store:
        n = opened_store.label(ids, label, by=labelled_by if label is not None else None)
    say(as_json, {"labelled": n, "label": label, "by": labelled_by}, f"{n} labelled {label or '-'}.")


@app.command()
def groups(
    store: StorePlace,
    category: Category = None,
    least_similarity: Annotated[
        float | None, typer.Option(help="Least mean cosine between groups to merge; by default from the store.")
    ] = None,
    read_only: ReadOnly = False,
    as_json: option.AsJson = False,
) -> None:
    """Show the stored defects in groups of similar ones. Example: blemish groups --store s"""
    with open_store(store, None, read_only=read_only or is_read_only(store)) as opened_store:
        names = [category] if category else list(opened_store.categories)
        of_category = {name: opened_store.groups(category=name, least_similarity=least_similarity) for name in names}
    lines = [
        f"{name}  {len(group.members):5} regions, {group.n_unlabelled:5} unlabelled  "
        f"{group.name or '(no name yet)':20}  {group.similarity:.2f}  {group.members[0].id}  {group.members[0].path}"
        for name, found in of_category.items()
        for group in found
    ]
    say(as_json, {name: [group.to_dict() for group in found] for name, found in of_category.items()}, *lines)


@app.command()
def reindex(
    model: Path,
    store: StorePlace,
    category: Category = None,
    good: Good = None,
    threads: option.Threads = None,
    as_json: option.AsJson = False,
) -> None:
    """Encode stored images again with another model; labels are kept. Example: blemish reindex model --store s"""
    with open_store(store, None, _detector(model, threads), good) as opened_store:
        result = opened_store.reindex(category=category, progress=Bars())
        opened_store.optimise()
    lines = [f"{result.images} images encoded again, {result.regions} regions.", *result.left_out]
    say(as_json, {**result._asdict(), "left_out": list(result.left_out)}, *lines)
    finish(unread=bool(result.left_out))


@app.command()
def suggest(
    model: Path,
    images: list[Path],
    store: StorePlace,
    category: Category = None,
    force: Force = False,
    read_only: ReadOnly = False,
    as_json: option.AsJson = False,
) -> None:
    """Suggest the labels of defects, or that they are new. Example: blemish suggest model part.png --store s"""
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    problems: list[str] = []
    with open_store(
        store, category, _detector(model, None), read_only=read_only or is_read_only(store)
    ) as opened_store:
        for path in images:
            try:
                suggestion = opened_store.suggest(path, force=force)
            except (ImageError, InputError) as error:
                problems.append(str(error))
                complain(f"error: {error}")
                rows.append({"path": str(path), "label": None, "problem": str(error)})
                continue
            rows.append({"path": str(path), **_without_matches(suggestion)})
            lines.append(f"{path}: {_verdict(suggestion)}")
    say(as_json, rows, *lines)
    finish(unread=bool(problems))


def _detector(folder: Path, threads: int | None) -> AnyDetector:
    from blemish.detectors.registry import load

    return load(folder, threads=threads)


def is_read_only(store: str) -> bool:
    """Return whether a store is a folder that can't be written to: for want of rights, or on a read-only disk."""
    return Path(store).is_dir() and not os.access(store, os.W_OK)


def open_store(
    store: str,
    category: str | None,
    model: AnyDetector | None = None,
    good: Path | None = None,
    *,
    create: bool = False,
    read_only: bool = False,
) -> DefectStore:
    """Return the store, which must exist unless `create`: a misspelt name has no answers."""
    from blemish.search import DefectStore

    images = None if good is None else _samples(good, is_good=True)[0]
    given: dict[str, Any] = {"model": model, "category": category, "good": images}
    given |= {"create": create, "read_only": read_only}
    if is_url(store):
        return DefectStore(url=store, api_key=os.environ.get("QDRANT_API_KEY"), **given)
    return DefectStore(store, **given)


def is_url(store: str) -> bool:
    """Return whether a store is on a server."""
    return store.lower().startswith(("http:", "https:"))


def _samples(images: Path, *, is_good: bool = False) -> tuple[list[Sample], list[Path]]:
    """Return the images of a folder and its sub-folders, or the one image; and masks, previews and other files."""
    from blemish.data.discovery import IMAGE_ENDINGS, find_images, no_images
    from blemish.data.tree import check_below, without_masks
    from blemish.types import Sample

    if not images.is_dir():
        return [Sample(images)], []
    found = find_images(images)
    paths, masks = without_masks(images, found.images)
    if is_good:
        paths, _, _ = check_below(images, paths, "good")
    if not paths:
        raise no_images("images", [images], IMAGE_ENDINGS)
    left_out = {"masks, previews or figures that Blemish wrote": [*masks, *found.outputs]}
    left_out["no image, by name and content"] = found.others
    for reason, files in left_out.items():
        if files:
            rest = f" and {len(files) - 3} more" if len(files) > 3 else ""
            complain(f"not read: {', '.join(map(str, files[:3]))}{rest}: {reason}.")
    return [Sample(path) for path in paths], [path for files in left_out.values() for path in files]


def _query(encoded: EncodedImage) -> dict[str, Any]:
    region, _, sha256, forced = encoded.regions[0]
    shown = {"box": list(region.box), "area_px": region.area_px, "score": region.score}
    return {"path": str(encoded.path), "sha256": sha256, "forced": forced, **shown}


def _without_matches(suggestion: Suggestion) -> dict[str, Any]:
    return {name: value for name, value in suggestion.to_dict().items() if name != "matches"}


def _verdict(suggestion: Suggestion) -> str:
    if suggestion.is_novel:
        p_value = "" if suggestion.p_value is None else f" (p {suggestion.p_value:.3f})"
        return f"Never seen before{p_value}."
    if suggestion.label is None:
        return "No similar defect has a label yet."
    return f"Probably {suggestion.label}: {100 * suggestion.confidence:.0f} % of the neighbors' votes."


def _write_sheet(path: Path, encoded: EncodedImage, matches: Sequence[Match], bit_depth: int | None) -> None:
    from blemish.data.outputs import save_output
    from blemish.imaging.decode import load
    from blemish.search.contact_sheet import sheet

    region = encoded.regions[0].region
    assert encoded.path is not None
    image = load(encoded.path, bit_depth=bit_depth)
    title = f"Most similar to {encoded.path.name}"
    save_output(path, sheet(image, region.box, region.contour, matches, title=title, bit_depth=bit_depth))
    complain(f"sheet: {path}")
