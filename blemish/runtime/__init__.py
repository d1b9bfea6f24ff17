"""Running networks: the engines that run a graph, and the instructions that this processor has."""

from blemish.runtime.session import Session, load
from blemish.runtime.telemetry import disable_onnxruntime

__all__ = ["Session", "load"]

disable_onnxruntime()  # before the first import of it
