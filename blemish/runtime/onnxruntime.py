"""The engine ONNX Runtime: on the processor, and on GPUs where its build has CUDA or TensorRT."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]  # no stubs
from numpy.typing import NDArray

from blemish.errors import InputError, ModelFileError, message
from blemish.runtime.forks import keep_in_forks
from blemish.runtime.passes import tile_convolutions
from blemish.runtime.session import Session

CPU = "CPUExecutionProvider"
# In the order in which ONNX Runtime gives a node to the first that has it.
PROVIDERS = {
    "cpu": (CPU,),
    "cuda": ("CUDAExecutionProvider", CPU),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", CPU),
}


# Errors come as exceptions; what else is logged tells a user nothing, and quotes a stranger's graph unescaped.
FATAL = 4


@dataclass(frozen=True)
class OnnxRuntimeSession(Session):
    """A session of ONNX Runtime."""

    _session: ort.InferenceSession

    def run_into(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Run the graph once and write outputs into arrays of the caller; only on the processor."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        self._session.run_with_iobinding(binding)

    def _run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        options = ort.RunOptions()
        options.only_execute_path_to_fetches = True
        options.log_severity_level = FATAL
        try:
            return dict(zip(outputs, self._session.run(outputs, inputs, options), strict=True))
        except Exception as error:  # ONNX Runtime's own errors share no public base class
            arrays = ", ".join(f"{array.dtype} {array.shape}" for array in inputs.values())
            expected = "uint8 (B, H, W, 3) that the network takes"
            raise InputError(message(self.input_name, expected, f"{arrays} ({_first_line(error)})")) from error


def open_session(
    graph: bytes | onnx.ModelProto, device: str, threads: int, *, passes: bool = True
) -> OnnxRuntimeSession:
    """Return a session of a graph; see `blemish.runtime.load`. `threads` 0 is one per physical core."""
    providers = _providers(device)
    if passes and device == "cpu":
        graph = _tiled(graph)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait by spinning take the cores from NumPy between two images: a network and a search in turns took
    # 120 ms instead of 70 on two cores, and the network alone 1 ms more without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without it, bytes with "ORTM" in the right place are read as another format than the one that was checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = FATAL
    data = graph if isinstance(graph, bytes) else graph.SerializeToString()
    try:
        # Its fallback prints on stdout what is wrong with a graph, and reads it again.
        session = ort.InferenceSession(data, options, providers=providers, enable_fallback=int(device != "cpu"))
    except Exception as error:  # ONNX Runtime's own errors share no public base class
        raise ModelFileError(message("network", "a graph that ONNX Runtime runs", _first_line(error))) from error
    keep_in_forks(session)
    wanted = PROVIDERS[device.partition(":")[0]][0]
    if wanted not in session.get_providers():  # it goes on without one that does not start
        todo = f"Install the CUDA libraries that onnxruntime {ort.__version__} names as its requirements."
        raise InputError(message("device", "one that starts", repr(device), todo=todo))
    (first, *_) = session.get_inputs()
    shape = tuple(size if isinstance(size, int) else None for size in first.shape)
    outputs = tuple(output.name for output in session.get_outputs())
    return OnnxRuntimeSession(first.name, shape, outputs, session.get_modelmeta().custom_metadata_map, session)


def _tiled(graph: bytes | onnx.ModelProto) -> bytes | onnx.ModelProto:
    """Return the graph with its convolutions on Winograd's tiles where they can be, else as it is."""
    try:
        model = onnx.load_from_string(graph) if isinstance(graph, bytes) else graph
    except DecodeError:
        return graph  # the engine says what is wrong with it
    return tile_convolutions(model) or graph


def _providers(device: str) -> list[tuple[str, dict[str, str]]]:
    """Return the execution providers of a device with their options."""
    kind, _, number = device.partition(":")
    if kind not in PROVIDERS or (number and (kind == "cpu" or not number.isdecimal())):
        raise InputError(message("device", f"{', '.join(PROVIDERS)}, or cuda:1 for the second GPU", repr(device)))
    available = ort.get_available_providers()
    if PROVIDERS[kind][0] not in available:
        todo = f"This onnxruntime has {', '.join(available)}: install onnxruntime-gpu in its place."
        raise InputError(message("device", "one that onnxruntime was built for", repr(device), todo=todo))
    options = {"device_id": number or "0"}
    return [(name, {} if name == CPU else options) for name in PROVIDERS[kind] if name in available]


def _first_line(error: Exception) -> str:
    """Return the first line of an error without the place and the C++ function that raised it."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"/onnxruntime_src/\S+ .*?\) (?=[A-Z])", "", line)[:200]
