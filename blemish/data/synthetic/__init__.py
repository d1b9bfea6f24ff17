"""Synthetic images: procedural textures, materials with defects, and the demo data set."""

__all__ = ["demo", "materials", "textures"]
