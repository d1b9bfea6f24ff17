"""anomalib's own PatchCore with our coreset and our nearest neighbours, for those who stay with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from blemish.errors import InputError, message
from blemish.ops.coreset import greedy_coreset
from blemish.ops.neighbors import MemoryIndex

if TYPE_CHECKING:
    from blemish.types import Float32, Int64

Model = TypeVar("Model")


def accelerate(model: Model) -> Model:
    """Make anomalib's Patchcore pick its coreset and find its neighbours by our code; return the same model.

    Everything else stays as it is: its engine, its training, its pre- and post-processing, its checkpoints. The coreset
    starts at the row and works on the projection that anomalib's own would have drawn (from torch's and NumPy's global
    random numbers), so it picks the same rows, up to ties that rounding decides; distances are those of brute force.

    Args:
        model: anomalib's Patchcore, fitted or not, or the PatchcoreModel in it.

    Raises:
        InputError: if it is neither.
    """
    inner: Any = getattr(model, "model", model)
    if not all(hasattr(inner, name) for name in ("subsample_embedding", "nearest_neighbors", "embedding_store")):
        todo = "Give anomalib.models.Patchcore."
        raise InputError(message("model", "anomalib's Patchcore", type(model).__name__, todo=todo))
    search = _Search()

    def subsample(sampling_ratio: float) -> None:
        inner.memory_bank = coreset(inner.embedding_store, sampling_ratio)
        inner.embedding_store.clear()

    inner.subsample_embedding = subsample
    inner.nearest_neighbors = lambda embedding, n_neighbors: search(inner.memory_bank, embedding, n_neighbors)
    return model


def picks(features: Float32, n_select: int, first: int) -> Int64:
    """Return the (n_select,) indices of the k-center greedy subset of (N, D) `features` that starts at row `first`."""
    # The row that the seed begins with changes places with the one that was asked for.
    place = int(greedy_coreset(features, 1, seed=0)[0])
    swapped = features.copy()
    swapped[[place, first]] = features[[first, place]]
    found = greedy_coreset(swapped, n_select, seed=0)
    back: Int64 = np.where(found == place, first, np.where(found == first, place, found))
    return back


def coreset(store: list[Any], sampling_ratio: float) -> Any:
    """Return the rows of all embeddings that the memory bank keeps, as a tensor: those that anomalib would pick.

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
    chosen = picks(np.ascontiguousarray(features.float().cpu().numpy()), sampler.coreset_size, first)
    return embedding[torch.from_numpy(chosen).to(embedding.device)]


class _Search:
    """Nearest neighbours in a tensor's rows; the index is made anew when the tensor is another one."""

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
        found = self._index.search(queries, n_neighbors)
        distances = torch.from_numpy(found.distances).to(embedding.device, embedding.dtype)
        indices = torch.from_numpy(found.indices).to(embedding.device)
        return (distances[:, 0], indices[:, 0]) if n_neighbors == 1 else (distances, indices)
