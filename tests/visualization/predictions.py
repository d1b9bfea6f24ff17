"""Images and predictions that are drawn."""

import numpy as np

from blemish.types import GoodPatch, Prediction


def image_of(height: int, width: int, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def prediction_of(anomaly_map: np.ndarray, *, score: float = 24.0, nearest: bool = False) -> Prediction:
    peak = np.unravel_index(int(anomaly_map.argmax()), anomaly_map.shape)
    return Prediction(
        score=score,
        label=score > 20,
        threshold=20.0,
        p_value=0.004,
        anomaly_map=anomaly_map,
        mask=anomaly_map > 20,
        pixel_threshold=20.0,
        peak_xy=(int(peak[1]), int(peak[0])),
        nearest_good=GoodPatch("good/000.png", (3, 4, 8, 8), 20.0) if nearest else None,
    )


def blob(height: int, width: int, top: float = 45.0) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    distance = ((rows - height * 0.4) / height) ** 2 + ((columns - width * 0.6) / width) ** 2
    return (8 + (top - 8) * np.exp(-distance * 60)).astype(np.float32)
