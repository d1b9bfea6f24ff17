"""Images as the bytes of a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    import numpy as np


def encoded(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    if kind == "webp":
        options = {"lossless": True, **options}
    opened.save(buffer, kind, **options)
    return buffer.getvalue()
