"""Acceleration of anomalib's own PatchCore: Blemish's coreset and nearest neighbours in anomalib's model."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from blemish.errors import InputError, message
from blemish.ops.coreset import greedy_coreset
from blemish.ops.neighbors import MemoryIndex

Model = TypeVar("Model")


def accelerate(model: Model) -> Model:
    """Replace coreset selection and nearest-neighbour search of anomalib's Patchcore in place; return the model.

    Engine, training, pre- and post-processing and checkpoints of anomalib are unchanged. The coreset starts at the row
    and uses the projection that anomalib would have drawn from torch's and NumPy's global random numbers, so that it
    selects the same rows, up to ties decided by rounding. Distances are those of brute force.

    Args:
        model: anomalib's Patchcore, fitted or not, or its PatchcoreModel.

    Raises:
        InputError: if `model` is neither.
    """
    inner: Any = getattr(model, "model", model)
    if not all(hasattr(inner, name) for name in ("subsample_embedding", "nearest_neighbors", "embedding_store")):
        todo = "Give anomalib.models.Patchcore."
        raise InputError(message("model", "anomalib's Patchcore", type(model).__name__, todo=todo))
    search = _Search()

    def subsample(sampling_ratio: float) -> None:
        inner.memory_bank = select_coreset(inner.embedding_store, sampling_ratio)
        inner.embedding_store.clear()

    inner.subsample_embedding = subsample
    inner.nearest_neighbors = lambda embedding, n_neighbors: search(inner.memory_bank, embedding, n_neighbors)
    return model


def select_coreset(store: list[Any], sampling_ratio: float) -> Any:
    """Return the memory bank as a tensor: the rows of all embeddings that anomalib would select.

    Args:
        store: (n, D) float32 tensors, one per batch.
        sampling_ratio: share of all rows.
    """
    import torch
    from anomalib.models.components import KCenterGreedy

    embedding = torch.vstack(store)
    sampler = KCenterGreedy(embedding=embedding, sampling_ratio=sampling_ratio)
    sampler.model.fit(embedding)
    features = sampler.model.transform(embedding)
    first = int(torch.randint(high=len(features), size=(1,), device=features.device))
    selected = greedy_coreset(np.ascontiguousarray(features.float().cpu().numpy()), sampler.coreset_size, first=first)
    return embedding[torch.from_numpy(selected).to(embedding.device)]


class _Search:
    """Nearest neighbours among the rows of a tensor; the index is rebuilt when the tensor changes."""

    def __init__(self) -> None:
        self._bank: Any = None
        self._version = -1
        self._index: MemoryIndex | None = None

    def __call__(self, bank: Any, embedding: Any, n_neighbors: int) -> tuple[Any, Any]:
        import torch

        if self._index is None or bank is not self._bank or bank._version != self._version:
            self._index = MemoryIndex(np.ascontiguousarray(bank.detach().float().cpu().numpy()))
            self._bank, self._version = bank, bank._version
        queries = np.ascontiguousarray(embedding.detach().float().cpu().numpy())
        neighbors = self._index.search(queries, n_neighbors)
        distances = torch.from_numpy(neighbors.distances).to(embedding.device, embedding.dtype)
        indices = torch.from_numpy(neighbors.indices).to(embedding.device)
        return (distances[:, 0], indices[:, 0]) if n_neighbors == 1 else (distances, indices)
