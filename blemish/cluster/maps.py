"""Anomaly maps and masks as columns of results: compressed bytes, and back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from blemish.data.outputs import output_png
from blemish.errors import InputError, message
from blemish.imaging.resize import fit_inside

if TYPE_CHECKING:
    from blemish.types import Bool, Float32, Prediction

MAP, MASK = "anomaly_map", "mask"
# The longer side of a stored map, as in the station: it was upsampled and smoothed, and has no finer detail.
MAP_SIDE_PX = 320
# Level 6 is as large, and slower.
ZLIB_LEVEL = 1


def map_columns(prediction: Prediction) -> dict[str, Any]:
    """Return the columns of an anomaly map: its bytes, height and width."""
    values = prediction.anomaly_map
    height, width = fit_inside((values.shape[0], values.shape[1]), MAP_SIDE_PX)
    if (height, width) != values.shape:
        values = np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    largest = np.finfo(np.float16).max
    stored = np.clip(values, -largest, largest).astype("<f2")
    return {MAP: zlib.compress(stored.tobytes(), ZLIB_LEVEL), "map_height": height, "map_width": width}


def mask_columns(prediction: Prediction) -> dict[str, Any]:
    """Return the column of a mask: a PNG file; None where no pixel is masked."""
    return {MASK: output_png(prediction.mask) if prediction.mask.any() else None}


def read_map(row: Mapping[str, Any]) -> Float32:
    """Return the anomaly map in a row of results, (map_height, map_width) float32.

    It has three digits, and at most 320 pixels a side; resize it to `height` and `width` to lay it over the image.

    Args:
        row: column to value, as of `pyarrow.parquet.read_table(path).to_pylist()`.

    Raises:
        InputError: if the row has no map, or a damaged one.
    """
    shape = _shape(row, MAP, "map_height", "map_width")
    n_bytes = 2 * shape[0] * shape[1]
    try:
        data = zlib.decompressobj().decompress(row[MAP], n_bytes + 1)
    except (zlib.error, TypeError) as error:
        raise InputError(message(MAP, "bytes compressed by zlib", str(error), where=row.get("path"))) from error
    if len(data) != n_bytes:
        raise InputError(message(MAP, f"{n_bytes} bytes of values", f"others ({len(data)})", where=row.get("path")))
    return np.frombuffer(data, "<f2").reshape(shape).astype(np.float32)


def read_mask(row: Mapping[str, Any]) -> Bool:
    """Return the mask in a row of results, (height, width) bool.

    Args:
        row: as of `read_map`.

    Raises:
        InputError: if the row has no prediction, was made without masks, or the mask is damaged.
    """
    shape = _shape(row, MASK, "height", "width", nullable=True)
    if row[MASK] is None:
        return np.zeros(shape, np.bool_)
    try:
        values = cv2.imdecode(np.frombuffer(row[MASK], np.uint8), cv2.IMREAD_GRAYSCALE)
    except (cv2.error, TypeError):
        values = None
    if values is None or values.shape != shape:
        got = "none" if values is None else str(values.shape)
        raise InputError(message(MASK, f"a PNG file of {shape}", got, where=row.get("path")))
    mask: Bool = values > 0
    return mask


def _shape(row: Mapping[str, Any], column: str, height: str, width: str, *, nullable: bool = False) -> tuple[int, int]:
    """Return the shape of what a column holds; raise InputError if it holds nothing."""
    shape = row.get(height), row.get(width)
    is_there = column in row and (nullable or row[column] is not None)
    if not is_there or shape[0] is None or shape[1] is None:
        todo = f"Take a row without an error, of results that were made with {column.replace('anomaly_', '')}s."
        raise InputError(message(column, "one in the row", "none", where=row.get("path"), todo=todo))
    return int(shape[0]), int(shape[1])
