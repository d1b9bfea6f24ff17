"""The formats of exported models: an exporter is a function that writes a graph, and one that opens what it wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from onnx import TensorProto

from blemish import runtime
from blemish._graphs.safety import parsed
from blemish._io.files import read_file, write_synced
from blemish.errors import InputError, ModelFileError, message

if TYPE_CHECKING:
    import onnx

    from blemish.runtime import Session

MAX_BYTES = 2**31 - 1  # protobuf's limit of one message
Open = Callable[[Path, str, "int | None"], "Session"]


class Format(NamedTuple):
    """A format of exported models.

    Attributes:
        ending: of the file that is named.
        further: endings of the files beside it.
        write: writes a graph to a path of that ending.
        open: returns a session of a path on a device, with a number of threads; InputError if it can't be run there.
    """

    ending: str
    further: tuple[str, ...]
    write: Callable[[onnx.ModelProto, Path], None]
    open: Open

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return the files of an exported model, the named one last."""
        return (*(path.with_suffix(ending) for ending in self.further), path)


def _write_onnx(graph: onnx.ModelProto, path: Path) -> None:
    write_synced(path, serialized(graph))


def _open_onnx(path: Path, device: str, threads: int | None) -> Session:
    data = read_file(path, name="exported model", max_bytes=MAX_BYTES)
    model = parsed(data)
    if model is None:
        raise ModelFileError(message("exported model", "an ONNX graph", "bytes that are none", where=path))
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise ModelFileError(message("exported model", "weights in the file", "names of other files", where=path))
    return runtime.load(data, device=device, threads=threads, passes=False)


def _write_openvino(graph: onnx.ModelProto, path: Path) -> None:
    from blemish.runtime.openvino import convert

    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    convert(serialized(graph), path, metadata)


def _open_openvino(path: Path, device: str, threads: int | None) -> Session:
    from blemish.runtime.openvino import open_file

    return open_file(path, device, threads)


FORMATS = {
    "onnx": Format(".onnx", (), _write_onnx, _open_onnx),
    "openvino": Format(".xml", (".bin",), _write_openvino, _open_openvino),
}


def serialized(graph: onnx.ModelProto) -> bytes:
    """Return the bytes of a graph; InputError if they are more than the format can hold."""
    size = graph.ByteSize()
    if size > MAX_BYTES:
        todo = "Fit with a smaller image_size or fewer features."
        raise InputError(message("exported model", f"at most {MAX_BYTES} bytes", str(size), todo=todo))
    return bytes(graph.SerializeToString())


def format_named(name: str) -> Format:
    """Return the format of a name; InputError if there is none."""
    if name not in FORMATS:
        raise InputError(message("to", " or ".join(FORMATS), repr(name)))
    return FORMATS[name]


def format_of(path: Path) -> Format:
    """Return the format of an exported file by the ending of its name; InputError if there is none."""
    for known in FORMATS.values():
        if path.suffix == known.ending:
            return known
    expected = f"a file ending in {' or '.join(known.ending for known in FORMATS.values())}"
    raise InputError(message("exported model", expected, repr(path.name), where=path))
