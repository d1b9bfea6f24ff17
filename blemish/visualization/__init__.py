"""Figures of results: heat maps, contours, charts and text."""
