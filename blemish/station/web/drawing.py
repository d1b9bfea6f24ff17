"""Overlay and map of a stored inspection, as image files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from blemish.imaging.resize import fit_inside
from blemish.types import Prediction
from blemish.visualization import MARKED, colour_scale, contours, heat_layer, overlay, to_jpeg

if TYPE_CHECKING:
    from blemish.station.inspections import Inspection
    from blemish.types import Bool, Float32, UInt8

PATCH_IMAGE_PX = 512
# A small defect is shown with so much of the part, as a share of the shorter side.
DEFECT_PX, LEAST_SHARE = 192, 0.25


def map_png(inspection: Inspection, anomaly_map: Float32) -> bytes:
    """Return the colours of a map as a PNG file with transparency, to be laid over the image."""
    layer = heat_layer(anomaly_map, *_scale(inspection, anomaly_map))
    done, encoded = cv2.imencode(".png", cv2.cvtColor(layer, cv2.COLOR_RGBA2BGRA))
    assert done
    return bytes(encoded)


def overlay_jpeg(inspection: Inspection, image: UInt8, anomaly_map: Float32) -> bytes:
    """Return the image with the colours of its map and the outlines of its regions, as a JPEG file."""
    size = image.shape[1], image.shape[0]
    large = np.asarray(cv2.resize(anomaly_map, size, interpolation=cv2.INTER_LINEAR), np.float32)
    drawn = overlay(image, large, *_scale(inspection, anomaly_map))
    return to_jpeg(contours(drawn, _mask(inspection)))


def patch_jpeg(image: UInt8, box: tuple[int, int, int, int]) -> bytes:
    """Return an image with a box around a patch, as a JPEG file of at most 512 px a side."""
    height, width = fit_inside((image.shape[0], image.shape[1]), PATCH_IMAGE_PX)
    scale = height / image.shape[0]
    small = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    mask = np.zeros((height, width), np.bool_)
    x, y, box_width, box_height = (round(scale * value) for value in box)
    mask[y : y + max(1, box_height), x : x + max(1, box_width)] = True
    return to_jpeg(contours(small, mask, MARKED))


def defect_jpeg(inspection: Inspection, image: UInt8) -> bytes:
    """Return the most anomalous region in a square twice its size, as a JPEG file of 192 px a side."""
    regions = inspection.details["regions"]
    peak_x, peak_y = inspection.details["peak_xy"]
    x, y, width, height = regions[0]["box"] if regions else (peak_x, peak_y, 1, 1)
    shorter = min(image.shape[:2])
    side = min(shorter, max(2 * max(width, height), round(LEAST_SHARE * shorter)))
    left = min(max(0, round(x + width / 2 - side / 2)), image.shape[1] - side)
    top = min(max(0, round(y + height / 2 - side / 2)), image.shape[0] - side)
    crop = image[top : top + side, left : left + side]
    way = cv2.INTER_AREA if side > DEFECT_PX else cv2.INTER_CUBIC
    return to_jpeg(np.asarray(cv2.resize(crop, (DEFECT_PX, DEFECT_PX), interpolation=way), np.uint8))


def _scale(inspection: Inspection, anomaly_map: Float32) -> tuple[float, float]:
    above = anomaly_map > np.float32(inspection.pixel_threshold)
    return colour_scale(
        Prediction(
            score=inspection.score,
            label=inspection.label,
            threshold=inspection.threshold,
            p_value=inspection.p_value,
            anomaly_map=anomaly_map,
            mask=above,
            pixel_threshold=inspection.pixel_threshold,
            good_peak=inspection.details["good_peak"],
        )
    )


def _mask(inspection: Inspection) -> Bool:
    mask = np.zeros((inspection.height, inspection.width), np.uint8)
    for region in inspection.details["regions"]:
        cv2.drawContours(mask, [np.array(region["contour"], np.int32)], -1, 1, cv2.FILLED)
    return mask.astype(np.bool_)
