"""Data sets: layouts, discovery of images and masks, validation, and training images."""

__all__ = ["datasets", "discovery", "folder", "manifest", "synthetic", "training_images", "validation"]
