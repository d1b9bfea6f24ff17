"""What `Engine` and the store of defects need of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from blemish.types import ImageInput, Prediction, Problem, Progress


class Predictor(Protocol):
    """The part of a detector that `Engine` and the store of defects need; other programs' models may have it too."""

    problems: tuple[Problem, ...]

    def fit(self, samples: Iterable[ImageInput], *, progress: Progress | None = None) -> object:
        """Fit on good images."""

    def predict(self, image: ImageInput) -> Prediction:
        """Return the prediction of one image."""

    def predict_many(self, images: Iterable[ImageInput]) -> Iterator[Prediction | Problem]:
        """Yield the prediction of each image, or its problem."""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model and return its path."""

    def header(self) -> dict[str, Any]:
        """Return the content of `model.json`: settings, input, thresholds, provenance."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user on choices that the fit made."""

    @property
    def bit_depth(self) -> int | None:
        """Bits that 16-bit images really use; None for all."""

    @property
    def threshold(self) -> float:
        """The image threshold."""

    @property
    def false_positive_rate(self) -> float:
        """Share of good images that may be called defective, as it was asked for."""
