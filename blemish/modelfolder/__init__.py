"""The model folder: written atomically, read strictly."""
