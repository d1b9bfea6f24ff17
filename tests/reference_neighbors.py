"""Nearest neighbours by brute force in float64: slow and obvious."""

from __future__ import annotations

import numpy as np


def nearest(queries, bank, n_neighbors, exclude=None):
    """Return float32 distances and int64 indices, nearest first, equal distances by index."""
    distances = np.empty((len(queries), n_neighbors), np.float32)
    indices = np.empty((len(queries), n_neighbors), np.int64)
    for i, query in enumerate(queries):
        difference = bank.astype(np.float64) - query.astype(np.float64)
        distance = np.sqrt((difference**2).sum(axis=1)).astype(np.float32)
        if exclude is not None:
            distance[exclude] = np.inf
        indices[i] = np.argsort(distance, kind="stable")[:n_neighbors]
        distances[i] = distance[indices[i]]
    return distances, indices
