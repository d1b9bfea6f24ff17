"""The engine OpenVINO: runs exported models on Intel's processors, GPUs and NPUs, and writes its own format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.errors import InputError, ModelFileError, install, message
from blemish.runtime.session import Session
from blemish.runtime.telemetry import without_openvino

SECTION = "blemish"  # of the model's metadata


@dataclass(frozen=True)
class OpenVinoSession(Session):
    """A session of OpenVINO."""

    _compiled: Any

    def run_into(self, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]) -> None:
        """Run the graph once and write outputs into arrays of the caller."""
        for name, array in self._run(inputs, list(outputs)).items():
            outputs[name][...] = array

    def _run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        try:
            results = self._compiled.create_infer_request().infer(dict(inputs))
        except RuntimeError as error:
            arrays = ", ".join(f"{array.dtype} {array.shape}" for array in inputs.values())
            got = f"{arrays} ({_first_line(error)})"
            raise InputError(message(self.input_name, "an input that the model takes", got)) from error
        by_name = {name: np.array(values) for output, values in results.items() for name in output.get_names()}
        return {name: by_name[name] for name in outputs}


def convert(graph: bytes, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX graph as OpenVINO's .xml with its .bin beside it, weights in float32.

    Raises:
        InputError: if OpenVINO is not installed.
        ModelFileError: if it can't convert the graph.
    """
    ov = _openvino()
    try:
        model = ov.Core().read_model(graph)
        for key, value in metadata.items():
            model.set_rt_info(value, [SECTION, key])
        ov.save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:
        raise ModelFileError(message("model", "a graph that OpenVINO reads", _first_line(error))) from error


def open_file(path: Path, device: str, threads: int | None) -> OpenVinoSession:
    """Return a session of a file that `convert` wrote.

    Args:
        device: as OpenVINO names it, in any case: cpu, gpu, npu, gpu.1.
        threads: processor threads; None for one per core.

    Raises:
        InputError: if OpenVINO is not installed, or has no such device.
        ModelFileError: if it can't read or run the file.
    """
    ov = _openvino()
    core = ov.Core()
    wanted = device.upper()
    if wanted not in core.available_devices:
        there = ", ".join(core.available_devices).lower()
        raise InputError(message("device", f"one that OpenVINO finds here: {there}", repr(device)))
    if not path.is_file():
        raise ModelFileError(message("exported model", "a file", "nothing there", where=path, todo="Check the path."))
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    if wanted == "CPU" and threads:
        options |= {"INFERENCE_NUM_THREADS": str(threads)}
    try:
        model = core.read_model(str(path))
        compiled = core.compile_model(model, wanted, options)
    except RuntimeError as error:
        got = _first_line(error)
        raise ModelFileError(message("exported model", "a graph that OpenVINO runs", got, where=path)) from error
    first, shape = model.inputs[0], model.inputs[0].partial_shape
    sizes = tuple(axis.get_length() if axis.is_static else None for axis in shape)
    names = tuple(output.any_name for output in model.outputs)
    return OpenVinoSession(first.any_name, sizes, names, _metadata(model), compiled)


def _metadata(model: Any) -> dict[str, str]:
    if not model.has_rt_info([SECTION]):
        return {}
    entries = model.get_rt_info([SECTION]).value
    return {key: str(getattr(entry, "value", entry)) for key, entry in entries.items()}


def _openvino() -> Any:
    try:
        with without_openvino():
            import openvino
    except ImportError as error:
        todo = f"{install('blemish[openvino]')}."
        raise InputError(message("openvino", "an installed package", "none", todo=todo)) from error
    return openvino


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
