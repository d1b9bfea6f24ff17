"""Settings of a detector, declared once: checks, `model.json`, command-line options and documentation follow.

The command line reads the settings of every detector when it starts: modules of settings import numpy, and what needs
it, in the checks alone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from blemish.errors import InputError, message

Check = Callable[[str, Any], Any]
Own = TypeVar("Own", bound="Settings")
MAX_THREADS = 256


class Pretrained(Protocol):
    """Pretrained weights that a detector is fitted with."""

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the weight file, in hex."""


class Option(NamedTuple):
    """A setting on the command line.

    Attributes:
        kind: the type that the command line parses.
        parse: from that to the setting.
    """

    name: str
    kind: type
    parse: Callable[[Any], Any]


class Row(NamedTuple):
    """A setting as documentation shows it.

    Attributes:
        default: as Python writes it.
        option: of the command line, with dashes; "" where there is none.
    """

    name: str
    default: str
    type: str
    option: str
    help: str


# Shared by the detectors: the command line has one option and one help for a setting of several detectors.
REQUIRED = object()  # a setting that each model folder holds
SIZE_HELP = (
    "Network input in pixels: n for about n x n in the aspect ratio that the images share; in Python "
    "also (height, width)."
)
CROP_HELP = "Side of a centre crop of the network input, in Python also (height, width); no crop by default."


def setting(
    default: Any,
    text: str,
    check: Check,
    *,
    option: str = "",
    kind: type | None = None,
    parse: Callable[[Any], Any] = lambda value: value,
    stored: bool = True,
    absent: Any = REQUIRED,
) -> Any:
    """Return a dataclass field of `Settings`.

    Args:
        check: returns the normalised value, or raises InputError.
        option: name of its command-line option, without dashes; "" for none.
        kind: type that the command line parses.
        parse: from that to the setting.
        stored: whether `model.json` holds it; a setting of one machine or one run is not stored.
        absent: the value in model folders from before there was this setting.
    """
    offered = Option(option, kind or type(default), parse) if option else None
    return dataclasses.field(
        default=default,
        metadata={"help": text, "check": check, "option": offered, "stored": stored, "absent": absent},
    )


def whole(low: int, high: int, *, optional: bool = False, odd: bool = False) -> Check:
    """Return a check for whole numbers from `low` to `high`, or None if `optional`."""

    def check(name: str, value: Any) -> int | None:
        from blemish._validation.checks import check_whole

        if value is None and optional:
            return None
        number = check_whole(name, value, low, high)
        if odd and number % 2 == 0:
            raise InputError(message(name, "an odd number", str(value)))
        return number

    return check


def number(low: float, high: float, *, optional: bool = False, positive: bool = False) -> Check:
    """Return a check for numbers from `low` to `high`, above 0 if `positive`, or None if `optional`."""

    def check(name: str, value: Any) -> float | None:
        from blemish._validation.checks import check_number

        if value is None and optional:
            return None
        checked: float = check_number(name, value, low=low, high=high)
        if positive and not checked:
            raise InputError(message(name, "a number above 0", "0"))
        return checked

    return check


def one_of(*choices: Any) -> Check:
    """Return a check for one of some values."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, type(choices[0])) or value not in choices:
            raise InputError(message(name, " or ".join(map(str, choices)), repr(value)))
        return value

    return check


def flag(name: str, value: Any) -> bool:
    """Return True or False, or raise."""
    checked: bool = one_of(True, False)(name, value)
    return checked


def path(name: str, value: Any) -> str | None:
    """Return a path as text, None for none."""
    if value is None or isinstance(value, (str, os.PathLike)):
        return None if value is None else str(os.fspath(value))
    raise InputError(message(name, "a path", repr(value)))


def network_size(_: str, value: Any) -> int | tuple[int, int]:
    """Return a side, or (height, width), that a network's input may have."""
    from blemish.imaging.geometry import choose_geometry

    choose_geometry([(1, 1)], value, None)
    checked: int | tuple[int, int] = value
    return checked


def crop_size(_: str, value: Any) -> int | tuple[int, int] | None:
    """Return a side, or (height, width), that may be cut out of a network's input; None for none."""
    from blemish.imaging.geometry import MAX_SIDE_PX, choose_geometry

    choose_geometry([(1, 1)], (MAX_SIDE_PX, MAX_SIDE_PX), value)
    checked: int | tuple[int, int] | None = value
    return checked


def _rate(_: str, value: Any) -> float:
    """Return a rate between 0 and 1, both excluded."""
    from blemish.ops.conformal import Calibration

    return Calibration.from_scores([0.0], value).false_positive_rate


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that all detectors have; a detector's own dataclass adds to them.

    Raises:
        InputError: if a value is out of range.
    """

    false_positive_rate: float = setting(
        0.02, "Share of good images that may be labelled defective.", _rate, option="false-positive-rate"
    )
    calibration: Literal["tail", "conformal"] = setting(
        "tail",
        "Rule of the thresholds: tail (extrapolates from the good images' scores, robust against a few defective ones "
        "among them) or conformal (a guaranteed rate; one defective image among the good ones moves it).",
        one_of("tail", "conformal"),
        option="calibration",
    )
    bit_depth: int | None = setting(
        None,
        "Bits in use in 16-bit images: 12 for most industrial cameras; all 16 by default.",
        whole(9, 16, optional=True),
        option="bit-depth",
        kind=int,
    )
    seed: int = setting(0, "Seed of every random choice.", whole(0, 2**63 - 1), option="seed")
    threads: int | None = setting(
        None,
        "Threads for decoding and for the network; one per core by default.",
        whole(1, MAX_THREADS, optional=True),
        option="threads",
        kind=int,
        stored=False,
    )

    # The argument that names a file of pretrained weights, for errors.
    weights_argument: ClassVar[str] = "weights"

    def __post_init__(self) -> None:
        """Replace each value by the one that its check returns."""
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, field.metadata["check"](field.name, getattr(self, field.name)))
        self.check_together()

    def check_together(self) -> None:
        """Raise InputError if settings contradict each other."""

    def load_pretrained(self) -> Pretrained | None:
        """Return the pretrained weights that the settings name, None for none.

        Raises:
            InputError: if there are none of that name.
            ModelFileError: if they are absent or damaged.
        """
        return None

    def completed(self: Own, pretrained: Any) -> Own:
        """Return the settings with those that follow from the pretrained weights."""
        del pretrained
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that `model.json` holds."""
        return {field.name: getattr(self, field.name) for field in stored_fields(type(self))}

    @classmethod
    def from_dict(cls: type[Own], stored: Mapping[str, Any], **unstored: Any) -> Own:
        """Return the settings that `model.json` holds.

        Args:
            stored: name to value; a list stands for a tuple.
            unstored: values of settings that `model.json` does not hold.

        Raises:
            InputError: if a name is unknown or missing, or a value is out of range.
        """
        fields = stored_fields(cls)
        names = {field.name for field in fields}
        stored = {**cls.absent_values(), **stored}
        if set(stored) != names:
            raise InputError(message("settings", ", ".join(sorted(names)), ", ".join(sorted(stored))))
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        return cls(**values, **unstored)

    @classmethod
    def absent_values(cls) -> dict[str, Any]:
        """Return the settings that came later, with the values by which a model computes what it did before."""
        absent = {field.name: field.metadata["absent"] for field in stored_fields(cls)}
        return {name: value for name, value in absent.items() if value is not REQUIRED}

    @property
    def n_threads(self) -> int:
        """The number of threads to use."""
        from blemish.runtime.cores import usable_cores

        return self.threads or usable_cores()


def ordered_fields(settings: type[Settings]) -> list[dataclasses.Field[Any]]:
    """Return the fields in the order of documentation: a detector's own first, those of all detectors last."""
    shared = {field.name for field in dataclasses.fields(Settings)}
    return sorted(dataclasses.fields(settings), key=lambda field: field.name in shared)


def stored_fields(settings: type[Settings]) -> list[dataclasses.Field[Any]]:
    """Return the fields that `model.json` holds."""
    return [field for field in dataclasses.fields(settings) if field.metadata["stored"]]


def options(settings: type[Settings]) -> dict[str, dataclasses.Field[Any]]:
    """Return the command-line options of a detector: name without dashes to the field that it sets."""
    fields = ordered_fields(settings)
    return {field.metadata["option"].name: field for field in fields if field.metadata["option"] is not None}


def describe_settings(settings: type[Settings]) -> list[Row]:
    """Return a row of documentation for each setting, in the order of the constructor."""
    rows = []
    for field in ordered_fields(settings):
        option = field.metadata["option"]
        shown = f"--{option.name}" if option else ""
        rows.append(Row(field.name, repr(field.default), str(field.type), shown, field.metadata["help"]))
    return rows
