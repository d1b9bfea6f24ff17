"""Drawn materials and defects."""
