"""Overlays of anomaly maps, contours, figures of predictions, contact sheets and charts, as (H, W, 3) uint8 RGB."""

from blemish.visualization.charts import loss_figure
from blemish.visualization.figures import Panel, contact_sheet, figure, panels
from blemish.visualization.overlays import (
    FOUND,
    MARKED,
    colour_scale,
    contours,
    draw_mask,
    heat_layer,
    overlay,
    to_jpeg,
)
from blemish.visualization.receptive_field import field_figure

__all__ = [
    "FOUND",
    "MARKED",
    "Panel",
    "colour_scale",
    "contact_sheet",
    "contours",
    "draw_mask",
    "field_figure",
    "figure",
    "heat_layer",
    "loss_figure",
    "overlay",
    "panels",
    "to_jpeg",
]
