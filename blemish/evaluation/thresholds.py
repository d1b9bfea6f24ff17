"""Thresholds of a fitted detector as JSON values and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blemish.ops.conformal import percent

if TYPE_CHECKING:
    from blemish.ops.conformal import Calibration


def threshold_fields(calibration: Calibration) -> dict[str, Any]:
    """Return thresholds and the expected false positive rate of a calibration as JSON values."""
    return {
        "threshold": calibration.threshold,
        "upper_threshold": calibration.upper_threshold if calibration.rule == "tail" else None,
        "false_positive_rate_promised": calibration.false_positive_rate_promised,
        "false_positive_rate_interval": list(calibration.rate_interval),
    }


def rate_text(calibration: Calibration) -> str:
    """Return the expected false positive rate with its interval, or the guaranteed one."""
    promised, (low, high) = percent(calibration.false_positive_rate_promised), calibration.rate_interval
    if calibration.rule == "conformal":
        return f"at most {promised}"
    return f"{promised} (90 % interval {100 * low:.2g} to {percent(high)})"


def threshold_sentence(calibration: Calibration) -> str:
    """Return the thresholds of a calibration in words."""
    if calibration.rule == "conformal":
        return f"Threshold {calibration.threshold:.4g}: {rate_text(calibration)} false positives."
    promised, _, interval = rate_text(calibration).partition(" (")
    text = f"Threshold {calibration.threshold:.4g}: about {promised} false positives expected ({interval}."
    if calibration.upper_threshold > calibration.threshold:
        text += f" Above {calibration.upper_threshold:.4g} no good image is expected."
    return text
