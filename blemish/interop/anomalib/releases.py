"""The release line of anomalib that wrote a checkpoint, and the settings that the line leaves out of it.

anomalib writes its version into no checkpoint. Lines differ by the place of the image preparation: before 1.0 nowhere,
in 1.x the entry "transform", from 2.0 on a hyper-parameter that is a pickled object or True for the default, from 2.7
on plain data. What a line does not say is refused, never assumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from blemish._io.safe_pickle import Inert
from blemish.errors import InputError, ModelFileError, message

Line = Literal["1.x", "2.0 to 2.6", "2.7"]
PRE_PROCESSOR = "anomalib_pre_processor_config"
ENABLED = "anomalib_components_enabled"
# Up to 0.7: albumentations' Resize (OpenCV, not antialiased), and nearest upsampling of the coarse layer.
TOO_OLD = "Its arithmetic is another one: fit with Blemish on the same images, or train with anomalib 1.0 or later."
OTHER_MODEL = "Other models can't be imported: fit with Blemish on the same images."
OLD_DEFAULT_PX, NEW_DEFAULT_PX = 224, 256  # of the network's input: 2.0 crops the centre, 2.1 and later do not


class Kind(NamedTuple):
    """A model that can be imported.

    Attributes:
        parts: first words behind "model." of the names in its state_dict.
        arguments: hyper-parameters that its scores depend on.
    """

    name: str
    parts: frozenset[str]
    arguments: tuple[str, ...]


PATCHCORE = Kind(
    "PatchCore",
    frozenset({"memory_bank", "feature_extractor", "anomaly_map_generator"}),
    ("backbone", "layers", "num_neighbors"),
)
EFFICIENTAD = Kind(
    "EfficientAD", frozenset({"teacher", "student", "ae", "mean_std", "quantiles"}), ("padding", "pad_maps")
)


def check_kind(state: Mapping[Any, Any], kind: Kind, where: object) -> None:
    """Raise ModelFileError if a state_dict has parts of a network that the model does not have."""
    parts = {name.split(".")[1] for name in state if isinstance(name, str) and name.startswith("model.")}
    if parts - kind.parts:
        got = f"a model with {', '.join(sorted(parts - kind.parts))}"[:120]
        raise ModelFileError(message("checkpoint", f"anomalib's {kind.name}", got, where=where, todo=OTHER_MODEL))


def release_line(checkpoint: Mapping[str, Any], where: object) -> Line:
    """Return the line of the release that wrote a checkpoint; ModelFileError before 1.0, and if it is not known."""
    arguments = checkpoint.get("hyper_parameters")
    if PRE_PROCESSOR in checkpoint or ENABLED in checkpoint:
        return "2.7"
    if "transform" in checkpoint:
        return "1.x"
    if isinstance(arguments, Mapping) and "pre_processor" in arguments:
        return "2.0 to 2.6"
    expected = "one of anomalib 1.0 or later"
    if _is_config(arguments) or str(checkpoint.get("pytorch-lightning_version", "")).startswith(("0.", "1.")):
        got = "one of anomalib 0.7 or earlier"
        raise ModelFileError(message("checkpoint", expected, got, where=where, todo=TOO_OLD))
    got = "one that does not say how images are prepared"
    todo = "Save it again by anomalib's Engine, or fit with Blemish on the same images."
    raise ModelFileError(message("checkpoint", expected, got, where=where, todo=todo))


def _is_config(arguments: Any) -> bool:
    """Return whether hyper-parameters are a configuration file of anomalib before 1.0."""
    if isinstance(arguments, Inert):
        return arguments.name.startswith("omegaconf.")
    return isinstance(arguments, Mapping) and "model" in arguments and "dataset" in arguments


def hyper_parameters(checkpoint: Mapping[str, Any], kind: Kind, where: object) -> Mapping[str, Any]:
    """Return the hyper-parameters of a checkpoint; ModelFileError without one that scores depend on."""
    arguments = checkpoint.get("hyper_parameters")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    missing = [name for name in kind.arguments if name not in arguments]
    if missing:
        expected, got = f"those of anomalib's {kind.name}", f"none named {', '.join(missing)}"
        raise ModelFileError(message("hyper_parameters", expected, got, where=where, todo=OTHER_MODEL))
    return arguments


def check_release(release: str | None) -> str | None:
    """Return a release's version as the user stated it, or raise InputError."""
    if release is not None and not (isinstance(release, str) and re.fullmatch(r"\d+\.\d+(\.\w+)*", release)):
        raise InputError(message("release", "a version of anomalib, such as 2.0.0", repr(release)))
    return release


def default_side_px(arguments: Mapping[str, Any], n_rows: int, stride: int, release: str | None, where: object) -> int:
    """Return the side of the network's input by the default preparation of anomalib 2.0 to 2.6's PatchCore.

    2.0 crops 256 px to 224, later releases do not crop. From 2.3 on the checkpoint names a precision. Before, the
    memory bank tells: its rows are the ratio of all patches, a multiple of those of one image.

    Args:
        n_rows: of the memory bank.
        stride: of the finest layer in pixels.
        release: as the user stated it, or None.

    Raises:
        InputError: if the release writes other checkpoints.
        ModelFileError: if both, or neither, would give that many rows; the message names the remedy.
    """
    if "precision" in arguments:
        return NEW_DEFAULT_PX
    if release is not None:
        if not release.startswith(("2.0.", "2.1.", "2.2.")):
            raise InputError(message("release", "2.0.0, 2.1.0 or 2.2.0, which alone write it", release, where=where))
        return OLD_DEFAULT_PX if release.startswith("2.0.") else NEW_DEFAULT_PX
    ratio = arguments.get("coreset_sampling_ratio")
    sides = [side for side in (OLD_DEFAULT_PX, NEW_DEFAULT_PX) if _gives(n_rows, ratio, (side // stride) ** 2)]
    if len(sides) == 1:
        return sides[0]
    expected, got = "the crop of anomalib 2.0, or none as from 2.1 on", "a checkpoint that does not say"
    todo = "State the release that wrote it: --release 2.0.0, or release= in Python (pip show anomalib)."
    raise ModelFileError(message("pre_processor", expected, got, where=where, todo=todo))


def _gives(n_rows: int, ratio: Any, n_patches: int) -> bool:
    """Return whether some number of images gives a memory bank of that many rows."""
    if not isinstance(ratio, float) or not 0 < ratio <= 1:
        return False
    # int() as in anomalib 2.0's KCenterGreedy; the neighbours bound the rounding of the quotient.
    nearest = round(n_rows / (ratio * n_patches))
    return any(int(n_images * n_patches * ratio) == n_rows for n_images in range(max(1, nearest - 1), nearest + 3))
