"""Pictures as the bytes of a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    import numpy as np


def encoded(picture: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    if kind == "webp":
        options = {"lossless": True, **options}
    image.save(buffer, kind, **options)
    return buffer.getvalue()
