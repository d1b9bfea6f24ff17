"""Settings of Qdrant that both backends share, and its import."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from blemish.errors import StoreError, install, message

# Payload fields with an index, for filters and order, and the type of their values.
INDEXED_FIELDS = {
    "kind": "keyword",
    "category": "keyword",
    "label": "keyword",
    "sha256": "keyword",
    "model": "keyword",
    "time": "datetime",
    "score": "float",
}

# Up to so many kB of vectors (40,000 regions) search is exhaustive: exact, in milliseconds. Above it HNSW keeps 256
# candidates (`hnsw_ef`); with the default of 100 it found 65 % of the true neighbors among 10,000 of 100,000 regions
# (benchmarks/store_scale.py).
FULL_SCAN_KB, HNSW_EF = 40_000, 256
# Points in one call: enough to make the call worth it, few enough that a scan does not hold the store in memory.
BATCH = 512
CREATE_STORE = "Make it with DefectStore(..., model=Patchcore.load(...)), or `blemish index`."


def import_package(module: str, package: str, *, extra: str) -> Any:
    """Return a module of an optional dependency, or raise StoreError if it is not installed; the text names the extra
    to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        todo = install(f"blemish[{extra}]") + "."
        raise StoreError(message("store", f"the package {package}", "none", todo=todo)) from error
