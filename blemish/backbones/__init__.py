"""Pretrained networks as feature extractors: registry, architectures, weights, patch embedding.

The names are loaded when they are first used: listing the networks needs neither onnx nor a runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blemish.backbones.backbone import Backbone, build
    from blemish.backbones.download import fetch
    from blemish.backbones.registry import DEFAULT, available

_MODULES = {
    "DEFAULT": "registry",
    "Backbone": "backbone",
    "available": "registry",
    "build": "backbone",
    "fetch": "download",
}

__all__ = ["DEFAULT", "Backbone", "available", "build", "fetch"]


def __getattr__(name: str) -> object:
    """Load a public name from its module at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'blemish.backbones' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"blemish.backbones.{_MODULES[name]}"), name)
