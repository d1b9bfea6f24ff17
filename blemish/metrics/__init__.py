"""Metrics of raw scores and anomaly maps: pure functions."""
