"""The model folder: `model.json`, `network.onnx` and safetensors files, written whole and read strictly.

A folder is data. Loading one parses JSON, checks every file's SHA-256, and checks the ONNX graph and the safetensors
headers before anything is built from them; nothing is unpickled or executed. A save goes to a new folder beside the
target, which then takes the target's place by two renames:

    1. write   .NAME.blemish-new-XXXX      target is the old model
    2. rename  NAME -> .NAME.blemish-old   no target for a moment: `load_model` reads .NAME.blemish-old
    3. rename  .NAME.blemish-new-XXXX -> NAME
    4. remove  .NAME.blemish-old

A kill between any two leaves the old model or the new one, whole; the next save clears what the kill left behind.
Two renames because no portable call exchanges two folders. Saves into one parent folder wait for each other:
of two at once both succeed, and the last one is there, whole. Deleted are only files with the names of a model's, which
were checked by their SHA-256 to be of a save.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from blemish._graphs.safety import SIDE_PX, check_network
from blemish._io.files import save_error, sync_folder, write_synced
from blemish._io.json_file import plain_json, read_json_object
from blemish._io.lock import exclusive
from blemish._io.safetensors_file import is_finite, read_tensors
from blemish._validation.checks import describe
from blemish._version import __version__
from blemish.errors import InputError, ModelFileError, SaveError, message
from blemish.modelfolder.upgrade import FORMAT_VERSION, upgraded
from blemish.modelfolder.weights import WEIGHTS, complete, externalise

HEADER = "model.json"
NETWORK = "network.onnx"
MAX_HEADER_BYTES = 64 << 20  # calibration scores and names of 100,000 training images are about 15 MB
MAX_FILE_BYTES = 4 << 30  # a bank of 2.7 million rows of 384; protobuf itself ends at 2 GB
MAX_FILES = 16
MAX_SIDE_PX = 4096  # of the image that a network whose input is not resized before is checked with
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.safetensors|network\.onnx")
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}  # left by desktops; no reason to refuse an overwrite
COPY_AGAIN = "The file was changed or damaged: copy the whole folder again, or fit again."

# The outputs of the network, and the tensors with dtype and number of axes, that a detector's folder must have.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "patchcore": ("features",),
    "padim": ("features",),
    "efficientad": ("student_map", "autoencoder_map"),
}
TENSORS: dict[str, dict[str, dict[str, tuple[str, int]]]] = {
    "patchcore": {"bank.safetensors": {"memory_bank": ("F32", 2), "source": ("I32", 2)}},
    "padim": {"gaussians.safetensors": {"mean": ("F32", 3), "whitening": ("F32", 4)}},
}

# Files that travel with a model and do not change what it computes: statistics to encode its defects by.
CARRIED = ("defect_statistics.safetensors",)

# Beginnings of the names of the network's parameters, which are kept beside it by name.
PARAMETERS: dict[str, tuple[str, ...]] = {"efficientad": ("teacher.", "student.", "autoencoder.")}

FIELDS: dict[str, type] = {"detector": str, "settings": dict, "input": dict, "thresholds": dict, "provenance": dict}
PROVENANCE: dict[str, tuple[type, ...]] = {
    "library_version": (str,),
    "seed": (int,),
    "backbone": (str,),
    "backbone_sha256": (str,),
    "n_training_files": (int,),
    "training_sha256": (str,),
    "fit_s": (int, float),
}


@dataclass(frozen=True)
class ModelFolder:
    """A model folder as it was read; every part has been checked.

    Attributes:
        header: the content of `model.json`: format_version, detector, settings, input, thresholds, provenance, files.
        network: the bytes of `network.onnx`, with the weights inside that it keeps in `weights.safetensors`.
        tensors: file name to tensor name to array (read-only), for each safetensors file.
    """

    path: Path
    header: Mapping[str, Any]
    network: bytes = field(repr=False)
    tensors: Mapping[str, Mapping[str, NDArray[Any]]] = field(repr=False)


def save_model(
    folder: str | os.PathLike[str],
    *,
    header: Mapping[str, Any],
    network: bytes,
    tensors: Mapping[str, Mapping[str, NDArray[Any]]] | None = None,
) -> Path:
    """Write a model folder, so that a kill at any moment leaves the old model or the new one; return its path.

    The same content gives the same bytes.

    Args:
        folder: where to; a model that is there is replaced, any other folder with content is left alone.
        header: detector, settings, input, thresholds, provenance, and other fields if wanted; plain JSON values.
            format_version, files and provenance.library_version are filled in.
        network: the ONNX graph: input `image` uint8 (B, H, W, 3), standard operators only, all weights inside. An
            EfficientAD's are moved to `weights.safetensors`, where the graph that is written points to.
        tensors: safetensors file name to tensor name to array.

    Raises:
        InputError: if the header holds what JSON cannot, or lacks a field.
        ModelFileError: if the network or the tensors would be refused by `load_model`.
        SaveError: if it cannot be written; what was there before is still there.
    """
    write_model(folder, header=header, network=network, tensors=tensors)
    return Path(folder)


def write_model(
    folder: str | os.PathLike[str],
    *,
    header: Mapping[str, Any],
    network: bytes,
    tensors: Mapping[str, Mapping[str, NDArray[Any]]] | None = None,
) -> str:
    """Write a model folder as `save_model` does; return the digest in its `model.json`, which tells it from others."""
    contents = _contents(header, network, tensors or {})
    write_files(folder, contents)
    return str(json.loads(contents[HEADER])["digest"])


def write_files(folder: str | os.PathLike[str], contents: Mapping[str, bytes]) -> None:
    """Write the files of a model folder that was saved elsewhere, as `save_model` does; SaveError if it can't be."""
    target = Path(os.path.realpath(folder))
    try:
        _replace_folder(target, contents)
    except SaveError:
        raise
    except OSError as error:
        raise save_error("model", target, error) from error


def check_target(folder: str | os.PathLike[str]) -> None:
    """Raise unless a model could be saved there: better known before an hour of fitting than after. SaveError if the
    folder holds other files, or cannot be written.
    """
    target = Path(os.path.realpath(folder))
    try:
        _check_replaceable(target)
        with tempfile.TemporaryDirectory(dir=next(path for path in target.parents if path.exists())):
            pass
    except SaveError:
        raise
    except OSError as error:
        raise save_error("model", target, error) from error


def load_model(folder: str | os.PathLike[str]) -> ModelFolder:
    """Return a model folder's content after checking all of it; nothing in it is executed. ModelFileError if it is
    absent, damaged, unsafe or from a newer version; it names the file and what to do.
    """
    path = Path(folder)
    for _ in range(10):
        before = _identity(path)
        try:
            return _load(path)
        except MemoryError:
            todo = "Close other programs, or load it on a larger machine."
            raise ModelFileError(message("model", "one that fits into memory", "more", where=path, todo=todo)) from None
        except ModelFileError:
            # A save that took the folder's place while it was read mixes two models: read the one there now.
            if _identity(path) == before:
                raise
    return _load(path)


def _contents(
    header: Mapping[str, Any], network: bytes, tensors: Mapping[str, Mapping[str, NDArray[Any]]]
) -> dict[str, bytes]:
    """Return file name to bytes of the whole folder, `model.json` last."""
    reserved = {"format_version", "files", "digest"} & set(header)
    if reserved:
        raise InputError(message("header", "no reserved field", ", ".join(sorted(reserved))))
    fields = plain_json(header, "header")
    fields["provenance"] = {"library_version": __version__, **_section(fields, "provenance", InputError, "header")}
    _check_fields(fields, InputError, "header")
    graph, weights = externalise(bytes(network), PARAMETERS.get(fields["detector"], ()))
    contents = {NETWORK: graph} | ({} if weights is None else {WEIGHTS: weights})
    for name, arrays in tensors.items():
        if not FILE_NAME.fullmatch(name) or name == NETWORK:
            raise InputError(message("tensors", "file names such as 'bank.safetensors'", repr(name)))
        if name in contents:
            raise InputError(message("tensors", f"no {name}, which holds the network's weights", "one"))
        # "C" order: safetensors writes an array's memory as it lies.
        contents[name] = safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in arrays.items()})
    _check_parts(fields, contents, "the model to save")
    fields["format_version"] = FORMAT_VERSION
    fields["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    fields["digest"] = header_digest(fields)
    contents[HEADER] = (json.dumps(fields, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")
    return contents


def _section(fields: Any, name: str, error: type[Exception], where: object) -> dict[str, Any]:
    section = fields.get(name)
    if not isinstance(section, dict):
        raise error(message(name, "dict", type(section).__name__ if name in fields else "nothing", where=where))
    return section


def _check_fields(fields: dict[str, Any], error: type[Exception], where: object) -> None:
    for name, wanted in FIELDS.items():
        got = type(fields[name]).__name__ if name in fields else "nothing"
        if not isinstance(fields.get(name), wanted):
            raise error(message(name, wanted.__name__, got, where=where))
    for name, value in fields["provenance"].items():
        types = PROVENANCE.get(name)
        if types and (not isinstance(value, types) or isinstance(value, bool)):
            raise error(message(f"provenance.{name}", types[-1].__name__, type(value).__name__, where=where))


def header_digest(header: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the fields of `model.json` but `digest` itself, as JSON without blanks, keys in order.

    It tells damage by accident, such as a flipped digit of a setting. Whoever changes a model on purpose can state the
    digest of the change: only a signature, which a model folder has not, would tell that.
    """
    fields = {name: value for name, value in header.items() if name != "digest"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _check_parts(
    header: Mapping[str, Any], contents: Mapping[str, bytes], where: object
) -> tuple[bytes, dict[str, dict[str, NDArray[Any]]]]:
    """Return network and tensors, checked as far as the detector's name says what they must hold."""
    detector, image_hw = header["detector"], _image_hw(header)
    wanted = TENSORS.get(detector, {})
    missing = [name for name in (NETWORK, *wanted) if name not in contents]
    if missing:
        raise ModelFileError(message(missing[0], "a file of the model", "nothing", where=where, todo="Fit again."))
    tensors = {
        name: read_tensors(data, name=name, wanted=wanted.get(name, {}), where=where)
        for name, data in contents.items()
        if name != NETWORK
    }
    _check_finite(tensors, where)
    network = complete(contents[NETWORK], contents, name=NETWORK, where=where)
    outputs = OUTPUTS.get(detector, ())
    return check_network(network, name=NETWORK, outputs=outputs, where=where, image_hw=image_hw), tensors


def _check_finite(tensors: Mapping[str, Mapping[str, NDArray[Any]]], where: object) -> None:
    """Raise ModelFileError at the first tensor with NaN, which is above no threshold, or an infinite value."""
    for name, arrays in tensors.items():
        for key, array in arrays.items():
            if not is_finite(array):
                expected, place = f"finite {array.dtype} {array.shape}", f"{where}/{name}"
                raise ModelFileError(message(key, expected, describe(array), where=place, todo="Fit again."))


def _image_hw(header: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of the images that the network is run on, as far as `input` states them."""
    given = header["input"]
    size = given.get("crop_hw") or given.get("resize_hw")
    plain = isinstance(size, (list, tuple)) and len(size) == 2 and all(type(side) is int for side in size)
    if not plain or not 1 <= min(size) <= max(size) <= MAX_SIDE_PX:
        return SIDE_PX, SIDE_PX  # refused by the detector, if it needs them
    if given.get("resize_in_graph") or header["settings"].get("arithmetic") == "anomalib":
        return MAX_SIDE_PX, MAX_SIDE_PX  # images as they are
    return size[0], size[1]


def _replace_folder(target: Path, contents: Mapping[str, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target.parent):
        _replace_alone(target, contents)


def _replace_alone(target: Path, contents: Mapping[str, bytes]) -> None:
    """Replace a folder while no other save runs: temporary folders that are there were left by a kill."""
    old = _old(target)
    new = target.with_name(f".{target.name}.blemish-new-{secrets.token_hex(6)}")
    _clear_after_kill(target, old)
    _check_replaceable(target)
    try:
        new.mkdir()
        for name, data in contents.items():
            write_synced(new / name, data)
        sync_folder(new)
        if target.exists():
            _swap(new, target, old)
        else:
            new.rename(target)
            sync_folder(target.parent)
    finally:
        _remove(new)


def _remove(folder: Path) -> None:
    """Remove a model folder that was moved aside; anything in it that no save wrote stays, and the folder with it."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name in {HEADER, *LITTER} or FILE_NAME.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    path.unlink()
        folder.rmdir()


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.blemish-old")


def _clear_after_kill(target: Path, old: Path) -> None:
    if old.exists():
        if target.exists():
            # Renamed before it is removed, so that the old folder is whole for as long as it has that name.
            old.rename(target.with_name(f".{target.name}.blemish-new-{secrets.token_hex(6)}"))
        else:
            old.rename(target)
    for path in target.parent.iterdir():
        if path.name.startswith(f".{target.name}.blemish-new-"):
            _remove(path)


def _check_replaceable(target: Path) -> None:
    """Raise unless `target` is absent, an empty folder, or a model folder that may be written."""
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    names = {path.name for path in target.iterdir()} - LITTER
    strangers = sorted(names - _saved_names(target)) if names else []
    if strangers:
        got = ", ".join(strangers[:3]) + (f" and {len(strangers) - 3} more" if len(strangers) > 3 else "")
        todo = "It would be deleted: choose an empty or new folder, or move these files away."
        raise SaveError(message("model", "a model folder to replace", f"other files: {got}", where=target, todo=todo))


def _saved_names(folder: Path) -> set[str]:
    """Return the names of a folder's files that a save wrote: listed in its header, with the SHA-256 stated there."""
    try:
        header = _read_header(folder)
        files = _section(header, "files", ModelFileError, "")
        ours = {HEADER} if isinstance(header.get("format_version"), int) else set()
        for name, digest in files.items():
            if FILE_NAME.fullmatch(name) and (folder / name).exists():
                data = _read(folder, name, MAX_FILE_BYTES)
                ours |= {name} if hashlib.sha256(data).hexdigest() == digest else set()
    except ModelFileError:
        return set()
    return ours


def _swap(new: Path, target: Path, old: Path) -> None:
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if not target.exists():
            old.rename(target)
        raise
    # The new model is in place: what fails from here on is cleared by the next save and is no failure of this one.
    sync_folder(target.parent)
    with contextlib.suppress(OSError):
        old.rename(new)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns


def _load(folder: Path) -> ModelFolder:
    place = folder
    if not folder.exists():
        old = _old(Path(os.path.realpath(folder)))
        place = old if (old / HEADER).is_file() else folder
    if not place.is_dir():
        got = "a file" if place.exists() else "nothing there"
        raise ModelFileError(
            message("model", "a model folder", got, where=folder, todo="Check the path, or fit first.")
        )
    header = _read_header(place)
    _check_header(header, place)
    contents = {}
    for name, digest in header["files"].items():
        data = _read(place, name, MAX_FILE_BYTES)
        actual = hashlib.sha256(data).hexdigest()
        if actual != digest:
            raise ModelFileError(
                message(name, f"SHA-256 {digest:.16}...", f"{actual:.16}...", where=place, todo=COPY_AGAIN)
            )
        contents[name] = data
    network, tensors = _check_parts(header, contents, place)
    return ModelFolder(path=place, header=upgraded(header, where=place / HEADER), network=network, tensors=tensors)


def _check_header(header: dict[str, Any], place: Path) -> None:
    version = header.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelFileError(message("format_version", "1 or more", repr(version), where=place / HEADER))
    if version > FORMAT_VERSION:
        provenance = header.get("provenance")
        maker = provenance.get("library_version") if isinstance(provenance, dict) else None
        # Only a version number is repeated: this is a stranger's text.
        known = isinstance(maker, str) and re.fullmatch(r"[0-9][0-9A-Za-z.+-]{0,30}", maker)
        todo = f"It was made by a newer version: install blemish{f'>={maker}' if known else ''} to read it."
        expected = f"at most {FORMAT_VERSION}"
        raise ModelFileError(message("format_version", expected, str(version), where=place / HEADER, todo=todo))
    _check_fields(header, ModelFileError, place / HEADER)
    files = _section(header, "files", ModelFileError, place / HEADER)
    if len(files) > MAX_FILES:
        raise ModelFileError(message("files", f"at most {MAX_FILES} files", str(len(files)), where=place / HEADER))
    for name, digest in files.items():
        if not FILE_NAME.fullmatch(name):
            expected = f"{NETWORK} or plain names ending in .safetensors"
            raise ModelFileError(message("files", expected, repr(name[:100]), where=place / HEADER))
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ModelFileError(message(f"files.{name}", "a SHA-256 in hex", "something else", where=place / HEADER))
    # Folders of 0.1 have no digest.
    if "digest" in header and header["digest"] != header_digest(header):
        got = "other fields than were written"
        raise ModelFileError(message("digest", "that of model.json", got, where=place / HEADER, todo=COPY_AGAIN))


def _read(place: Path, name: str, limit: int) -> bytes:
    """Return one file's bytes, if it is an ordinary file that lies in the folder and is not too large."""

    def refuse(expected: str, got: str, todo: str = COPY_AGAIN) -> NoReturn:
        raise ModelFileError(message(name, expected, got, where=place, todo=todo))

    path = place / name
    try:
        # A link could name any file of the machine; a pipe would never end.
        if os.path.realpath(path.parent) != os.path.realpath(path.resolve().parent):
            refuse("a file in the folder", "a link that leaves it", "Copy the file that it points to in its place.")
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            refuse("an ordinary file", "something else")
        if info.st_size > limit:
            refuse(f"at most {limit} bytes", str(info.st_size))
        with path.open("rb") as file:
            return file.read(info.st_size)  # more would be allocated whole before it is read
    except FileNotFoundError:
        refuse("a file of the model", "nothing")
    except (OSError, RuntimeError) as error:
        refuse(
            "a readable file", repr(getattr(error, "strerror", None) or str(error)), "Check its rights and the disk."
        )


def _read_header(place: Path) -> dict[str, Any]:
    return read_json_object(_read(place, HEADER, MAX_HEADER_BYTES), name=HEADER, where=place, todo=COPY_AGAIN)
