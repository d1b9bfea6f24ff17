"""Metrics of image scores (`classification`) and of anomaly maps (`segmentation`), as pure functions."""

__all__ = ["classification", "segmentation"]
