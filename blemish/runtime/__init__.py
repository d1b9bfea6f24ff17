"""Running networks: the engines that run a graph, and the instructions that this processor has."""

from blemish.runtime.session import Session, load

__all__ = ["Session", "load"]
