"""Data sets: which file is what, what is wrong with it, and the training images."""
