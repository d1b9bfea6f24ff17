"""One step of EfficientAD's training: four losses on a good image, a penalty image, and a jittered good image.

Source: Batzner et al. 2024, section 3; nelson1425/efficientad.py where the paper is silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish.detectors.efficientad.devices import cuda_graph, is_gpu, seeded
from blemish.detectors.efficientad.networks import Network, new_weights, normalised
from blemish.detectors.efficientad.pdn import STRIDE_PX, autoencoder, import_torch, output_hw, pixels_of
from blemish.runtime.precision import has_instructions
from blemish.types import Float32, UInt8

if TYPE_CHECKING:
    from blemish.detectors.efficientad.penalty import Penalty
    from blemish.detectors.efficientad.settings import EfficientAdSettings

STATISTICS_IMAGES = 64  # for the teacher's mean and standard deviation: 200,000 patches
CACHE_BYTES = 1 << 30  # of the teacher's features that are kept
MOST_HELD = 16  # held-out images of a loss
WINOGRAD_LEAST = 16  # rows and columns of outputs; on fewer the transforms of the kernels cost more than is saved
STD_FLOOR = 1e-3  # of the mean standard deviation: a channel that is constant in good images is not scaled up
HARD_SHARE = 0.001  # the paper's p_hard of 0.999, section 3.2
# With some hundred steps, a thousandth of the features is too little at first: on 11 bottles (crop 24, lr 1e-3) a
# student was after 50 steps at .98 of the teacher's variance, and at .83 if a tenth counted. From the first share to
# the paper's within so many steps, or within half of them all.
FIRST_SHARE, FIRST_STEPS = 0.1, 1000
JITTER = (0.8, 1.2)  # section 3.3; one of the three at a time, as in anomalib and nelson1425/efficientad.py
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow and torchvision have it


class Losses(NamedTuple):
    """The four parts of a step's loss: student on good images, penalty, autoencoder, student on autoencoder."""

    student: float
    penalty: float
    autoencoder: float
    agreement: float

    @property
    def total(self) -> float:
        """Their sum, which is minimised."""
        return sum(self)


class StepInputs(NamedTuple):
    """Inputs of a step of n images, on the device.

    Attributes:
        crops: (3 n, H, W, 3) float32 from 0 to 255: of good images, of penalty images, of jittered good images.
        jittered: (n, H, W, 3) float32, the whole images of the last n crops.
        targets: (n, h, w, C) float32, the teacher's features of the first n crops.
        places: row and column, among the outputs, at which each of the last n crops begins.
    """

    crops: Any
    jittered: Any
    targets: Any
    places: list[tuple[int, int]]


@dataclass
class Images:
    """Training images, held-out images and penalty images.

    Attributes:
        train: (n, h, w, 3) uint8.
        held: (m, h, w, 3) uint8, which decide when to stop; not those that set the threshold.
        penalty: images of other things.
    """

    train: UInt8
    held: UInt8
    penalty: Penalty


class Training:
    """The networks in training, and one step of it.

    Every random choice of a step follows from the seed and the step's number, so that a step taken again after a kill
    is the same step.

    Args:
        crop: rows and columns of outputs of each image that a step sees; None for all.
        mixed: whether networks run in bfloat16; None where the device multiplies it fast.
        fast: whether convolutions are Winograd's; None for float32 on a processor and maps that are large enough.
    """

    def __init__(
        self,
        settings: EfficientAdSettings,
        crop: int | None,
        teacher: Mapping[str, NDArray[Any]],
        images: Images,
        *,
        device: str = "cpu",
        mixed: bool | None = None,
        fast: bool | None = None,
    ) -> None:
        torch = import_torch()
        self.settings, self.images, self.device = settings, images, device
        size, self.n_outputs = settings.model_size, len(list(teacher.values())[-1])
        height, width = images.train.shape[1:3]
        self.hw = output_hw(size, (height, width), padding=settings.padding)
        self.crop_hw = self.hw if crop is None else (crop, crop)
        self.mixed = is_gpu(device) or has_instructions("amx_bf16") if mixed is None else mixed
        if fast is None:
            fast = not self.mixed and not is_gpu(device) and min(self.hw) >= WINOGRAD_LEAST
        student, decoder = new_weights(size, self.n_outputs, settings.seed)
        kind: dict[str, Any] = {"device": device, "padding": settings.padding, "fast": fast}
        self.teacher = Network(teacher, size, n_heads=1, **kind)
        self.teacher.net.requires_grad_(False)
        self.student = Network(student, size, n_heads=2, **kind)
        self.autoencoder = autoencoder(self.n_outputs, padding=settings.padding)
        self.autoencoder.load_state_dict({name: torch.from_numpy(array) for name, array in decoder.items()})
        self.autoencoder.to(device)
        self.parameters = [*self.student.net.parameters(), *self.autoencoder.parameters()]
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        self._targets: dict[int, Any] = {}
        self._last_kind: Any = None  # crop and share of the last step
        self._graph: tuple[Any, Callable[..., Any]] | None = None
        self.mean, self.std = self._statistics()

    def step(self, k: int, rate: float, share: float = HARD_SHARE) -> Losses:
        """Take step `k`, and return its losses; if one is not finite, no parameter changes."""
        rng = np.random.default_rng([self.settings.seed, k])
        with seeded(self.device, int(rng.integers(2**62))):  # for the autoencoder's dropout
            four = self._losses(self._inputs(k, rng), share)
        losses = Losses(*four.detach().tolist())
        if not np.isfinite(losses.total):
            return losses
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        four.sum().backward()
        self.optimizer.step()
        return losses

    def held_out_losses(self) -> tuple[float, float]:
        """Return the mean of the student's map and of the autoencoder's over held-out images, `MOST_HELD` at most."""
        pairs = []
        for x, of_teacher, rebuilt in self._held_out():
            features = self.student.features(x)
            distances = of_teacher - self.student.head(features, 0), rebuilt - self.student.head(features, 1)
            pairs.append([float(_mean_square(distance)) for distance in distances])
        student, autoencoder = np.mean(pairs, axis=0).tolist()
        return student, autoencoder

    def explained(self) -> float:
        """Return the share of the teacher's variance on held-out images that the autoencoder explains, from 0 to 1."""
        pairs = [(float(_mean_square(t - r)), float(_mean_square(t))) for _, t, r in self._held_out()]
        errors, variances = np.sum(pairs, axis=0)
        return float(np.clip(1 - errors / max(variances, 1e-12), 0, 1))

    def _held_out(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield held-out images, normalised, with the features of teacher and autoencoder, without gradients."""
        self.autoencoder.eval()
        with import_torch().no_grad(), self.precision():
            for image in self.images.held[:MOST_HELD]:
                x = self._whole(image)
                yield x, self._scaled(self._of_teacher(x)), self._rebuilt(image[None].astype(np.float32))
        self.autoencoder.train()

    def training_pair(self, i: int, place: tuple[int, int], hw: tuple[int, int]) -> tuple[Any, Any]:
        """Return the crop of a training image whose outputs are `hw` from a place on, normalised (1, H, W, 3), and the
        targets of both heads there, (1, 2 C, h, w).
        """
        torch = import_torch()
        image = self.images.train[i : i + 1]
        x = normalised(self._cut(image, [place], hw), self.device)
        (row, column), (height, width) = place, hw
        self.autoencoder.eval()
        with torch.no_grad(), self.precision():
            of_teacher = self._scaled(self._of_teacher(x))
            rebuilt = self._rebuilt(image.astype(np.float32)).float()
        self.autoencoder.train()
        rebuilt = rebuilt[:, row : row + height, column : column + width]
        return x, torch.cat([of_teacher, rebuilt], 3).permute(0, 3, 1, 2)

    def precision(self) -> Any:
        """Return the context that networks run in: bfloat16 where the device multiplies it fast."""
        torch = import_torch()
        return torch.autocast(self.device.partition(":")[0], dtype=torch.bfloat16, enabled=self.mixed)

    def _inputs(self, k: int, rng: np.random.Generator) -> StepInputs:
        """Return the inputs of step `k`."""
        torch = import_torch()
        chosen, n = self._chosen(k), self.settings.batch_size
        places = [self._place(rng) for _ in range(2 * n)]
        good = self._cut(self.images.train[chosen], places[:n], self.crop_hw)
        changed = jittered(rng, self.images.train[chosen])
        changed_crops = self._cut(changed, places[n:], self.crop_hw)
        other = self.images.penalty.parts(rng, n, (good.shape[1], good.shape[2]))
        crops = np.concatenate([good.astype(np.float32), other.astype(np.float32), changed_crops])
        with self.precision():
            targets = self._parts([self._target(i) for i in chosen], places[:n])
        on_device = [torch.as_tensor(array, device=self.device) for array in (crops, changed)]
        return StepInputs(on_device[0], on_device[1], targets, places[n:])

    def _losses(self, inputs: StepInputs, share: float) -> Any:
        """Return the four losses, (4,); on a GPU by a CUDA graph from the second step of a kind on."""
        kind = (self.crop_hw, share)
        is_repeated, self._last_kind = kind == self._last_kind, kind
        losses = partial(self._four_losses, inputs.places, share)
        tensors = inputs.crops, inputs.jittered, inputs.targets
        if not (is_repeated and is_gpu(self.device) and self.crop_hw == self.hw):
            return losses(*tensors)
        if self._graph is None or self._graph[0] != kind:
            self._graph = kind, cuda_graph(losses, tensors, self.parameters)
        return self._graph[1](*tensors)

    def _four_losses(self, places: list[tuple[int, int]], share: float, crops: Any, changed: Any, targets: Any) -> Any:
        torch = import_torch()
        n, student = self.settings.batch_size, self.student
        with self.precision():
            x = normalised(crops)
            features = student.features(x)
            as_teacher, as_autoencoder = student.head(features[: 2 * n], 0), student.head(features[2 * n :], 1)
            rebuilt = self._parts(self._rebuilt(changed), places)
            distances = self._scaled(targets) - as_teacher[:n].float()
            losses = [
                hard_loss(distances.square(), share),
                _mean_square(as_teacher[n:]),
                _mean_square(self._scaled(self._of_teacher(x[2 * n :])) - rebuilt),
                _mean_square(rebuilt - as_autoencoder),
            ]
            return torch.stack(losses)

    def _parts(self, maps: Any, places: list[tuple[int, int]]) -> Any:
        """Return the parts of whole images' maps that a step sees, (n, h, w, C) float32."""
        height, width = self.crop_hw
        parts = [image[r : r + height, c : c + width] for image, (r, c) in zip(maps, places, strict=True)]
        # Of float32 before they are stacked: torch's autocast on a CPU refuses to stack float16.
        return import_torch().stack([part.float() for part in parts])

    def _chosen(self, k: int) -> list[int]:
        """Return the images of step `k`: each once per epoch, in an order of the epoch's own."""
        n, batch = len(self.images.train), self.settings.batch_size
        chosen = []
        for i in range(k * batch, (k + 1) * batch):
            order = np.random.default_rng([self.settings.seed, 1, i // n]).permutation(n)
            chosen.append(int(order[i % n]))
        return chosen

    def _place(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return row and column of a random crop's first output."""
        row, column = (int(rng.integers(whole - part + 1)) for whole, part in zip(self.hw, self.crop_hw, strict=True))
        return row, column

    def _cut(self, images: NDArray[Any], places: list[tuple[int, int]], hw: tuple[int, int]) -> NDArray[Any]:
        """Return the pixels of the images that `hw` outputs from these places on see."""
        if self.settings.padding:
            return images
        height, width = (pixels_of(n) for n in hw)
        tops = [(STRIDE_PX * row, STRIDE_PX * column) for row, column in places]
        parts = [image[y : y + height, x : x + width] for image, (y, x) in zip(images, tops, strict=True)]
        return np.stack(parts)

    def _target(self, i: int) -> Any:
        """Return the teacher's features of a training image, (h, w, C) float16; computed once if there is room."""
        if i in self._targets:
            return self._targets[i]
        torch = import_torch()
        target = self._of_teacher(self._whole(self.images.train[i]))[0].to(torch.float16)
        if (len(self._targets) + 1) * target.numel() * 2 <= CACHE_BYTES:
            self._targets[i] = target
        return target

    def _whole(self, image: UInt8) -> Any:
        """Return one image, normalised, as far as its outputs see of it, (1, H, W, 3)."""
        return normalised(self._cut(image[None], [(0, 0)], self.hw), self.device)

    def _of_teacher(self, x: Any) -> Any:
        """Return the teacher's features of normalised images, (N, h, w, C) float32."""
        torch = import_torch()
        with torch.no_grad():
            return self.teacher.head(self.teacher.features(x), 0).float().contiguous()

    def _scaled(self, features: Any) -> Any:
        return (features - self.mean) / self.std

    def _rebuilt(self, images: Any) -> Any:
        """Return the autoencoder's output for whole images, (N, h, w, C)."""
        torch = import_torch()
        x = torch.as_tensor(images, device=self.device).permute(0, 3, 1, 2) / 255
        return self.autoencoder(x).permute(0, 2, 3, 1)

    def _statistics(self) -> tuple[Any, Any]:
        """Return mean and standard deviation of each of the teacher's outputs on good images, (C,) float32."""
        torch = import_torch()
        n = min(len(self.images.train), STATISTICS_IMAGES)
        chosen = [i * len(self.images.train) // n for i in range(n)]
        with torch.no_grad(), self.precision():
            sums = torch.zeros(2, self.n_outputs, dtype=torch.float64, device=self.device)
            count = 0
            shift = self._target(chosen[0]).double().mean((0, 1))
            for i in chosen:
                rows = self._target(i).double().reshape(-1, self.n_outputs) - shift
                sums += torch.stack([rows.sum(0), rows.square().sum(0)])
                count += len(rows)
        mean, square = sums / count
        std = (square - mean.square()).clamp_min(0).sqrt()
        std = std.clamp_min(max(STD_FLOOR * float(std.mean()), 1e-6))
        return (mean + shift).float(), std.float()


def hard_loss(distances: Any, share: float = HARD_SHARE) -> Any:
    """Return the mean of the squared distances at or above a quantile, their 0.999 quantile in the paper.

    Args:
        share: of them that counts.

    Source: Batzner et al. 2024, section 3.2. The quantile lies between two values or on one; those from the upper on
        are the floor(share * (n - 1)) + 1 largest.
    """
    torch = import_torch()
    n = int(share * (distances.numel() - 1)) + 1
    return torch.topk(distances.reshape(-1), n, sorted=False).values.mean()


def hard_share(k: int, n_steps: int) -> float:
    """Return the share of distances that counts in step `k` of `n_steps`: a tenth at first, soon a thousandth.

    Differs: the paper takes a thousandth from the first step on.

    >>> hard_share(0, 70_000), hard_share(1000, 70_000), hard_share(50, 100)
    (0.1, 0.001, 0.001)
    """
    done = min(1.0, k / min(FIRST_STEPS, max(n_steps / 2, 1)))
    return float(FIRST_SHARE * (HARD_SHARE / FIRST_SHARE) ** done) if done < 1 else HARD_SHARE


def jittered(rng: np.random.Generator, images: UInt8) -> Float32:
    """Return images with brightness, contrast or saturation changed by up to a fifth, (N, h, w, 3) float32 to 255."""
    return np.stack([_jittered(rng, image.astype(np.float32)) for image in images])


def _jittered(rng: np.random.Generator, image: Float32) -> Float32:
    kind, factor = int(rng.integers(3)), np.float32(rng.uniform(*JITTER))
    changed = image * factor
    if kind:
        grey = image @ GREY
        changed += (1 - factor) * (grey.mean() if kind == 1 else grey[..., None])
    return np.asarray(np.clip(changed, 0, 255), np.float32)


def _mean_square(x: Any) -> Any:
    return x.float().square().mean()
