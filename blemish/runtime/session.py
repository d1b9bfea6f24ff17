"""Loading a graph on a device, and running it on batches of any size.

    session = runtime.load(graph, device="cpu", threads=2)
    session.run(images)["features"]

A graph is the textbook network. What makes it fast on a device is the business of the engine that loads it, one module
beside this one: `onnxruntime` today. An engine is a function (graph, device, threads, passes)
-> Session.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import InputError, message
from blemish.runtime.cores import usable_cores
from blemish.runtime.memory import keep_some_memory

if TYPE_CHECKING:
    import onnx

    Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Session(ABC):
    """A graph that was loaded on a device. Threads may share one.

    Attributes:
        input_shape: size of each axis of the input, None for any: (batch, height, width, 3) of a network.
        metadata: what the model states of itself, by key.
    """

    input_name: str
    input_shape: tuple[int | None, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def any_size(self) -> bool:
        """Whether the network takes images of any height and width."""
        return None in self.input_shape[1:3]

    def run(self, images: NDArray[Any], outputs: Sequence[str] = ()) -> Arrays:
        """Return outputs by name for a batch of any size.

        A graph of a fixed batch size gets as many images at a time, the last ones again to fill its last batch.

        Args:
            images: (B, H, W, 3) uint8 RGB, or whatever array the input of another graph is.
            outputs: names of the outputs to compute; none for all.

        Raises:
            InputError: if the graph does not take an input of that type or shape.
        """
        names = list(outputs) or list(self.outputs)
        size = self.input_shape[0] if self.input_shape else None
        if size is None or not images.ndim or len(images) in {0, size}:
            return self._run({self.input_name: images}, names)
        n = len(images)
        places = np.minimum(np.arange(-(-n // size) * size), n - 1).reshape(-1, size)
        batches = [self._run({self.input_name: images[rows]}, names) for rows in places]
        return {name: np.concatenate([batch[name] for batch in batches])[:n] for name in names}

    @abstractmethod
    def run_into(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Run the graph once and write outputs into arrays of the caller: large results need no fresh memory.

        Args:
            inputs: by name, contiguous.
            outputs: by name, contiguous, of the very type and shape of the result.
        """

    @abstractmethod
    def _run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Arrays:
        """Run the graph once on inputs by name; InputError if it does not take them."""


def load(
    graph: bytes | onnx.ModelProto, *, device: str = "cpu", threads: int | None = None, passes: bool = True
) -> Session:
    """Return a session that runs an ONNX graph.

    Args:
        device: "cpu", "cuda" or "tensorrt"; "cuda:1" for another than the first GPU.
        threads: processor threads; None for one per physical core, or per core where fewer may be used.
        passes: whether the package's own passes may rewrite the graph for the engine; results differ by rounding.

    Raises:
        InputError: if the engine that is installed has no such device.
        ModelFileError: if the engine can't run the graph.
    """
    from blemish.runtime.onnxruntime import open_session

    if threads is not None and threads < 1:
        raise InputError(message("threads", "1 or more, or None", repr(threads)))
    keep_some_memory()
    if threads is None and usable_cores() < (os.cpu_count() or 1):
        threads = usable_cores()
    return open_session(graph, device, threads or 0, passes=passes)
