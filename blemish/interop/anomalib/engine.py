"""PatchCore of the installed anomalib as a detector: Blemish's backbone weights, evaluated by `Engine.evaluate`."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blemish.backbones.weights import load_weights
from blemish.errors import ImageError, InputError, install, message
from blemish.imaging.anomaly_map import peak, upsample
from blemish.imaging.decode import path_of, read_image
from blemish.interop.anomalib.acceleration import select_coreset
from blemish.interop.anomalib.timm_names import timm_name, timm_network, to_timm
from blemish.types import ImageInput, Prediction, Problem, Progress

INSTALL = f"{install('blemish[anomalib]')}."


def find_anomalib() -> str:
    """Return the version of the installed anomalib, without importing it. InputError if anomalib is not installed; the
    message gives the command.
    """
    try:
        return importlib.metadata.version("anomalib")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(message("anomalib", "to be installed", "no such package", todo=INSTALL)) from None


@dataclass(frozen=True)
class Settings:
    """Settings of both sides.

    Attributes:
        layers: by Blemish's names; None for strides 8 and 16.
        timed_picks: time this number of anomalib's coreset picks and extrapolate, instead of hours for all; its bank
            is then Blemish's coreset, the same rows. None to run all.
        threads: of each side; None for one per core. 1 on a shared machine: threads that wait for each other take time
            that belongs to neither side.
    """

    backbone: str = "efficientnet_lite0"
    layers: tuple[str, ...] | None = None
    image_size: int = 256
    coreset_sampling_ratio: float = 0.1
    num_neighbors: int = 9
    seed: int = 0
    timed_picks: int | None = None
    threads: int | None = None


class AnomalibPatchcore:
    """anomalib's PatchCore with Blemish's backbone weights, fitted by anomalib's engine.

    A `Predictor`: scores and maps are raw, before anomalib's normalisation, and maps are resized to the image.
    Training images are read from the data set's folder by anomalib's reader.

    Attributes:
        own: metrics of anomalib's engine, once tested.
        timings: seconds of its coreset, its picks, and its validation, once fitted.
    """

    bit_depth: int | None = None  # it reads 8 bits
    notes: tuple[str, ...] = ()
    false_positive_rate = float("nan")  # it states none

    def __init__(self, root: str | os.PathLike[str], category: str, settings: Settings) -> None:
        find_anomalib()
        import torch
        from anomalib.models import Patchcore
        from anomalib.pre_processing import PreProcessor
        from torchvision.transforms.v2 import Compose, Normalize, Resize

        self.layers = shared_layers(settings.backbone, settings.layers)
        network = timm_network(timm_name(settings.backbone))
        names = {layer: timm for timm, layer in network.layers.items()}
        mean, std = ([value / 255 for value in values] for values in (network.mean, network.std))
        resize = Resize((settings.image_size, settings.image_size), antialias=True)
        torch.manual_seed(settings.seed)
        self.model = Patchcore(
            backbone=timm_name(settings.backbone),
            layers=[names[layer] for layer in self.layers],
            pre_trained=False,
            coreset_sampling_ratio=settings.coreset_sampling_ratio,
            num_neighbors=settings.num_neighbors,
            pre_processor=PreProcessor(transform=Compose([resize, Normalize(mean=mean, std=std)])),
            visualizer=False,
        )
        _load_weights(self.model.model.feature_extractor.feature_extractor, settings.backbone)
        self.root, self.category, self.timed_picks = Path(root), category, settings.timed_picks
        self.problems: tuple[Problem, ...] = ()
        self.own: dict[str, float] = {}
        self.timings: dict[str, float] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="blemish-anomalib-")
        self._engine: Any = None

    def fit(self, samples: Iterable[ImageInput], *, progress: Progress | None = None) -> AnomalibPatchcore:
        """Fit by anomalib's engine on the data set's folder; `samples` and `progress` are ignored."""
        del samples, progress
        from anomalib.engine import Engine

        self._engine = Engine(
            default_root_dir=self._folder.name, accelerator="cpu", logger=False, enable_progress_bar=False
        )
        inner, ended, saved = self.model.model, 0.0, 0.0
        subsample = inner.subsample_embedding

        def timed(sampling_ratio: float) -> None:
            nonlocal ended, saved
            start, processor = time.perf_counter(), time.process_time()
            if self.timed_picks is None:
                subsample(sampling_ratio)
                wall, used = time.perf_counter() - start, time.process_time() - processor
            else:
                wall, used = _extrapolated(inner.embedding_store, sampling_ratio, self.timed_picks)
                inner.memory_bank = select_coreset(inner.embedding_store, sampling_ratio)
                inner.embedding_store.clear()
            ended = time.perf_counter()
            saved = wall - (ended - start)
            self.timings |= {"coreset_s": wall, "cpu_saved_s": used - (time.process_time() - processor)}

        inner.subsample_embedding = timed
        start = time.perf_counter()
        self._engine.fit(model=self.model, datamodule=self._data())
        self.timings["fit_s"] = time.perf_counter() - start + saved
        self.timings["without_validation_s"] = ended - start + saved
        inner.subsample_embedding = subsample
        self.timings["n_bank"] = float(len(self.model.model.memory_bank))
        self.model.eval()
        return self

    def test(self) -> dict[str, float]:
        """Return the metrics of anomalib's engine on the test images, and keep them in `own`."""
        (metrics,) = self._engine.test(model=self.model, datamodule=self._data(), verbose=False)
        self.own = {name: float(value) for name, value in metrics.items()}
        self.model.eval()
        return self.own

    def predict(self, image: ImageInput) -> Prediction:
        """Return anomalib's raw score and map of one image, by its transform and model alone."""
        import torch

        rgb = read_image(image, None)
        pixels = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255  # as anomalib.data.utils.read_image
        with torch.no_grad():
            output = self.model.model(self.model.pre_processor.transform(pixels))
        anomaly_map = upsample(np.ascontiguousarray(output.anomaly_map[0].squeeze().numpy()), rgb.shape[:2])
        score, threshold = float(output.pred_score.reshape(-1)[0]), self.threshold
        return Prediction(
            score=score,
            label=score > threshold,
            threshold=threshold,
            p_value=float("nan"),  # anomalib has none
            anomaly_map=anomaly_map,
            mask=anomaly_map > np.float32(self._number("_pixel_threshold")),
            pixel_threshold=self._number("_pixel_threshold"),
            regions=(),
            peak_xy=peak(anomaly_map),
            path=path_of(image),
        )

    def predict_many(self, images: Iterable[ImageInput]) -> Iterator[Prediction | Problem]:
        """Yield the prediction of each image, or its problem."""
        return (self._predicted(image) for image in images)

    def _predicted(self, image: ImageInput) -> Prediction | Problem:
        try:
            return self.predict(image)
        except ImageError as error:
            return Problem(path_of(image) or Path(), "unreadable", str(error))

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write anomalib's checkpoint into a folder, and return its path."""
        path = Path(folder) / "model.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._engine.trainer.save_checkpoint(path)
        return path

    def header(self) -> dict[str, Any]:
        """Return detector and version."""
        return {"detector": "anomalib PatchCore", "provenance": {"anomalib": find_anomalib()}}

    @property
    def threshold(self) -> float:
        """The image threshold of anomalib on raw scores, chosen on the test images."""
        return self._number("_image_threshold")

    def _number(self, name: str) -> float:
        return float(getattr(self.model.post_processor, name))

    def _data(self) -> Any:
        """Return anomalib's Folder with MVTecAD's default validation: its MVTecAD reads PNG alone."""
        from anomalib.data import Folder

        root = self.root / self.category
        defects = sorted(path.name for path in (root / "test").iterdir() if path.is_dir() and path.name != "good")
        return Folder(
            name=self.category,
            root=root,
            normal_dir="train/good",
            normal_test_dir="test/good",
            abnormal_dir=[f"test/{defect}" for defect in defects],
            mask_dir=[f"ground_truth/{defect}" for defect in defects],
            val_split_mode="same_as_test",
            # Decoding in this process: memory of workers would not be counted.
            num_workers=0,
        )


def _extrapolated(store: Sequence[Any], sampling_ratio: float, n_picks: int) -> tuple[float, float]:
    """Return extrapolated wall and processor seconds of anomalib's coreset.

    Stacking and projecting are timed in full, each pick as the mean of the first `n_picks`. The state of the random
    number generators is restored.
    """
    import torch
    from anomalib.models.components import KCenterGreedy

    state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002  where anomalib draws from
    start, processor = time.perf_counter(), time.process_time()
    sampler = KCenterGreedy(embedding=torch.vstack(list(store)), sampling_ratio=sampling_ratio)
    n_all, sampler.coreset_size = sampler.coreset_size, 1
    sampler.select_coreset_idxs()
    set_up = time.perf_counter() - start, time.process_time() - processor
    sampler.coreset_size = min(n_picks, n_all)
    index: Any = 0
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(sampler.coreset_size - 1):
        sampler.update_distances(cluster_center=index)
        index = sampler.get_new_idx()
        sampler.min_distances.scatter_(0, index.unsqueeze(0).unsqueeze(1), 0.0)
    times = n_all / max(1, sampler.coreset_size - 1)
    picking = (time.perf_counter() - start) * times, (time.process_time() - processor) * times
    torch.set_rng_state(state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    return set_up[0] + picking[0], set_up[1] + picking[1]


def shared_layers(backbone: str, layers: Sequence[str] | None) -> tuple[str, ...]:
    """Return layers by Blemish's names that timm offers too: those before a downsampling. InputError if timm does not
    offer a layer.
    """
    offered = list(timm_network(timm_name(backbone)).layers.values())
    # Strides 8 and 16 by default.
    chosen = tuple(layers) if layers else tuple(offered[2:4]) if len(offered) == 5 else ("layer2", "layer3")
    unknown = [layer for layer in chosen if layer not in offered]
    if unknown:
        raise InputError(message("layers", f"some of {', '.join(offered)}", ", ".join(unknown)))
    return chosen


def _load_weights(extractor: Any, backbone: str) -> None:
    """Load Blemish's weights into timm's network."""
    import torch

    own_weights, _, path = load_weights(backbone)
    weights = to_timm(timm_network(timm_name(backbone)), own_weights)
    state = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    missing = [
        name for name in extractor.load_state_dict(state, strict=False).missing_keys if "num_batches" not in name
    ]
    if missing:
        got = f"none for {', '.join(missing[:3])}"
        raise InputError(message("weights", "all that timm's network has", got, where=path))
