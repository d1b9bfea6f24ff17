"""Export of a fitted detector to one file, verified before it takes its name."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from blemish._io.files import SYSTEM, save_error, sync_folder
from blemish.detectors.registry import load
from blemish.errors import DataError, InputError, ModelFileError, SaveError, message
from blemish.exporters.comparison import Verification, compare
from blemish.exporters.formats import format_named, format_of
from blemish.exporters.graph import FORMAT, exported_graph
from blemish.imaging.geometry import MAX_SIDE_PX
from blemish.search.model_id import model_id
from blemish.types import no_progress

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector
    from blemish.exporters.formats import Format
    from blemish.types import ImageInput, Progress

# Of the calibration set, evenly spread: each costs two predictions.
MAX_IMAGES = 50


def export(
    model: str | os.PathLike[str] | AnyDetector,
    out: str | os.PathLike[str],
    *,
    to: str = "onnx",
    image_hw: tuple[int, int] | None = None,
    images: Iterable[ImageInput] | None = None,
    plain: bool = False,
    int8: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Write a model as one graph with the memory bank, the calibration and the resize inside, and return its check.

    The graph takes `image`, uint8 (B, H, W, 3) RGB, and gives `score`, `label` and `p_value`, (B,), `anomaly_map` and
    `mask`, (B, H, W). It is run on good images before it takes its name: scores and maps must be those of the
    model to 1e-4, and labels the same.

    Args:
        model: a model folder, or a fitted detector.
        out: the file to write, ending in .onnx, or in .xml for OpenVINO, which has a .bin beside it.
        to: "onnx" or "openvino".
        image_hw: the one (height, width) of the images, for engines that need fixed sizes; None for any.
        images: good images to compare on; up to 50 of the calibration set by default.
        plain: whether an ONNX graph keeps the textbook convolutions, for engines that have faster ones of their own,
            such as TensorRT. Else EfficientAD's are on Winograd's tiles, as `predict` runs them in ONNX Runtime.
        int8: whether a product of 8-bit integers chooses the rows of PatchCore's memory bank whose distances are
            computed: faster with large banks. The bound is then 1e-3, for a nearest row may be missed.
        threads: for decoding and for the networks; None for one per core.
        progress: called as progress(stage, done, total).

    Raises:
        DataError: if the calibration images are not there, and no others are given.
        InputError: if a setting is out of range, or OpenVINO is not installed.
        ModelFileError: if the model can't be loaded, or the exported graph predicts otherwise.
        SaveError: if `out` exists or can't be written.
    """
    target, kind = Path(out), format_named(to)
    _check_target(target, kind)
    size = None if image_hw is None else _checked_size(image_hw)
    detector = load(model, threads=threads) if isinstance(model, (str, os.PathLike)) else model
    compared = _calibration_images(detector) if images is None else list(images)
    graph = exported_graph(detector, image_hw=size, plain=plain or to != "onnx", int8=int8)
    if isinstance(model, (str, os.PathLike)):
        graph.metadata_props.add(key="model_folder", value=os.path.realpath(model))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name[:40]}.", dir=target.parent) as folder:
            written = Path(folder) / target.name
            kind.write(graph, written)
            session = kind.open(written, "cpu", threads)
            result = compare(session, detector, compared, target, progress or no_progress)
            del session  # it may hold the file
            if not result.ok:
                raise ModelFileError(message("exported model", "the predictions of the model", str(result)))
            _move(kind, written, target)
    except SaveError:
        raise
    except OSError as error:
        raise save_error("exported model", target, error) from error
    return result


def verify(
    exported: str | os.PathLike[str],
    images: Iterable[ImageInput],
    *,
    model: str | os.PathLike[str] | AnyDetector | None = None,
    device: str = "cpu",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Return how the predictions of an exported model differ from those of the model folder that it was made of.

    Args:
        exported: the file that `export` wrote.
        images: paths, samples or arrays.
        model: the model folder, or the detector; by default the folder whose path is in the exported file.
        device: that the exported model runs on, as its engine names it.
        threads: for decoding and for the networks; None for one per core.
        progress: called as progress(stage, done, total).

    Raises:
        DataError: if no image can be read.
        InputError: if the file is no exported model or of another model, or there is no such device.
        ModelFileError: if the model or the file can't be loaded.
    """
    path = Path(exported)
    session = format_of(path).open(path, device, threads)
    metadata = session.metadata
    if metadata.get("blemish_format") != FORMAT:
        got = repr(metadata["blemish_format"]) if "blemish_format" in metadata else "a model of another program"
        raise InputError(message("exported model", f"one of format {FORMAT}", got, where=path, todo="Export it again."))
    folder = _stated_folder(metadata, path) if model is None else model
    detector = load(folder, threads=threads) if isinstance(folder, (str, os.PathLike)) else folder
    if metadata.get("model_id") != model_id(detector):
        got = f"{model_id(detector)}, that of {folder}" if isinstance(folder, (str, os.PathLike)) else "another"
        todo = "Export this model again, or name the one that was exported."
        raise InputError(message("model_id", str(metadata.get("model_id")), got, where=path, todo=todo))
    return compare(session, detector, images, path, progress or no_progress)


def _stated_folder(metadata: Mapping[str, str], path: Path) -> str:
    """Return the model folder that an exported file states; InputError if there is none, or none of this machine."""
    folder = metadata.get("model_folder", "")
    # The file may be a stranger's, and the server of a network share would be sent the user's credentials.
    if not folder or folder.startswith((*SYSTEM, "//")):
        got = "none stated" if not folder else repr(folder[:100])
        todo = "Name the model folder: model=, or --model on the command line."
        raise InputError(message("model", "the folder that was exported", got, where=path, todo=todo))
    return folder


def _check_target(target: Path, kind: Format) -> None:
    """Raise unless an exported model can be written there; nothing is replaced."""
    if target.suffix != kind.ending:
        raise InputError(message("out", f"a file ending in {kind.ending}", repr(target.name)))
    for path in kind.files(target):
        if os.path.lexists(path):
            raise save_error("exported model", path, FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)))


def _checked_size(image_hw: tuple[int, int]) -> tuple[int, int]:
    from blemish._validation.checks import check_whole

    height, width = (check_whole("image_hw", side, 1, 4 * MAX_SIDE_PX) for side in image_hw)
    return height, width


def _calibration_images(detector: AnyDetector) -> list[ImageInput]:
    """Return the files of up to `MAX_IMAGES` calibration images, or raise DataError if there are none any more."""
    training = detector.fitted.training
    files = training.files(str(detector.fitted.provenance.get("training_sha256", "")))
    known = [files[i] for i in training.chosen or range(len(files))]
    there = [path for path in known if path is not None]
    if not there:
        todo = "Give good images to compare the exported model on: images=, or --images on the command line."
        raise DataError(message("images", "the calibration images as they were", "none of them", todo=todo))
    step = -(-len(there) // MAX_IMAGES)
    return list(there[::step])


def _move(kind: Format, written: Path, target: Path) -> None:
    """Give the files of an exported model their names; none of them is there without the others."""
    moved: list[Path] = []
    try:
        for source, place in zip(kind.files(written), kind.files(target), strict=True):
            if os.path.lexists(place):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            source.rename(place)
            moved.append(place)
    except BaseException:
        for place in moved:
            place.unlink()
        raise
    sync_folder(target.parent)
