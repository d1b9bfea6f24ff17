"""Anomaly detectors, their registry, and what they share."""
