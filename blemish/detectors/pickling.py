"""Pickles of detectors, which worker processes get: by their model folder, or by its content; none is another model.

A detector that is in a model folder, because it was loaded from there or saved there and not changed since, is pickled
as the folder's path and the digest of its content; whoever unpickles it loads the folder, and gets an error if it holds
another model by then. Any other fitted detector is pickled as the files of a folder. Both ways end in the reader of
model folders: a pickle holds settings, bytes and text, and nothing of the detector's own is executed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish.errors import ModelFileError, message
from blemish.modelfolder.folder import header_digest, load_model, write_model

if TYPE_CHECKING:
    from blemish.detectors.base import AnyDetector
    from blemish.modelfolder.folder import ModelFolder

OWN = {"settings", "_state", "_pretrained", "_origin"}


@dataclass(frozen=True, eq=False)
class Origin:
    """The model folder that holds a detector as it was then.

    Attributes:
        digest: of all that the folder holds.
        state, settings: of the detector, which are replaced when it changes.
    """

    folder: str
    digest: str
    state: object
    settings: object


@dataclass(frozen=True)
class Files:
    """The files of a model folder by name, and the folder that relative paths of training images are looked for in."""

    contents: Mapping[str, bytes]
    root: str


def digest_of(model: ModelFolder) -> str:
    """Return the digest of a model folder: of `model.json`, which holds the SHA-256 of every file."""
    return str(model.header.get("digest") or header_digest(model.header))


def reduced(detector: AnyDetector) -> tuple[Callable[..., AnyDetector], tuple[Any, ...]]:
    """Return what `pickle` stores of a detector."""
    state, origin = detector._state, detector._origin
    others = {name: value for name, value in vars(detector).items() if name not in OWN}
    source: tuple[str, str, str] | Files | None = None
    if state is not None:
        is_there = origin is not None and origin.state is state and origin.settings is detector.settings
        if origin is not None and is_there:
            source = origin.folder, origin.digest, state.training.root
        else:
            source = _files(detector)
    return restored, (type(detector), detector.settings, source, others)


def restored(
    detector_type: type[AnyDetector],
    settings: Any,
    source: tuple[str, str, str] | Files | None,
    others: Mapping[str, Any],
) -> AnyDetector:
    """Return a detector that was pickled.

    Raises:
        ModelFileError: if its folder is gone, damaged, or holds another model by now.
    """
    if source is None:
        detector = detector_type.__new__(detector_type)
        detector._configure(settings)
    elif isinstance(source, Files):
        with tempfile.TemporaryDirectory(prefix="blemish-unpickled-") as folder:
            for name, data in source.contents.items():
                (Path(folder) / Path(name).name).write_bytes(data)
            detector = _loaded(detector_type, load_model(folder), settings, source.root)
            detector._origin = None
    else:
        folder, digest, root = source
        model = load_model(folder)
        if digest_of(model) != digest:
            todo = "Send the detector again, or load() the model that is there now."
            expected, got = f"the model that was pickled, digest {digest:.16}...", f"{digest_of(model):.16}..."
            raise ModelFileError(message("model", expected, got, where=folder, todo=todo))
        detector = _loaded(detector_type, model, settings, root)
    vars(detector).update(others)
    return detector


def _loaded(detector_type: type[AnyDetector], model: ModelFolder, settings: Any, root: str) -> AnyDetector:
    detector = detector_type.from_model(model, threads=settings.threads)
    state, origin = detector.fitted, detector._origin
    state = replace(state, training=replace(state.training, root=root))
    detector.settings, detector._state = settings, state
    if origin is not None:
        detector._origin = replace(origin, state=state, settings=settings)
    return detector


def _files(detector: AnyDetector) -> Files:
    state = detector.fitted
    with tempfile.TemporaryDirectory(prefix="blemish-pickled-") as parent:
        folder = Path(parent) / "model"
        write_model(folder, header=detector.header(), network=state.network, tensors=state.files())
        contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    return Files(contents, state.training.root or os.path.realpath(os.curdir))
