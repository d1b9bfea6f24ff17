"""Data sets: roles by names, layouts, discovery of images and masks, validation, and training images."""

__all__ = [
    "datasets",
    "discovery",
    "folder",
    "holdout",
    "layouts",
    "manifest",
    "mask_files",
    "masks",
    "outputs",
    "role_words",
    "roles",
    "synthetic",
    "training_images",
    "tree",
    "validation",
]
