"""One step of EfficientAD's training: four losses on a good image, an image of something else, and a changed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blemish.detectors.efficientad.devices import is_gpu, one_launch, seeded
from blemish.detectors.efficientad.loss import HARD_SHARE, hard_loss, jittered
from blemish.detectors.efficientad.networks import Network, network, new_weights
from blemish.detectors.efficientad.pdn import autoencoder, import_torch, output_hw
from blemish.detectors.efficientad.pdn_tiles import STRIDE_PX, normalised, pixels_of
from blemish.runtime.precision import has_instructions
from blemish.runtime.winograd import TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from blemish.detectors.efficientad.penalty import Penalty
    from blemish.detectors.efficientad.settings import EfficientAdSettings
    from blemish.types import UInt8

MEASURED_IMAGES = 64  # for the teacher's mean and deviation: 200,000 patches
CACHE_BYTES = 1 << 30
LEAST_TILED = 16  # rows and columns of outputs; on fewer the transforms of the weights cost more than is saved
DEVIATION_FLOOR = 1e-3  # of the mean deviation: a channel that never moves in good images is not blown up


class Losses(NamedTuple):
    """The four parts of a step's loss: of the student on good images and on others, of the autoencoder, of both."""

    student: float
    penalty: float
    autoencoder: float
    agreement: float

    @property
    def total(self) -> float:
        """Their sum, which is what is brought down."""
        return sum(self)


class Drawn(NamedTuple):
    """What a step of n images looks at, on the device.

    Attributes:
        seen: (3 n, H, W, 3) float32 from 0 to 255: parts of good images, of others, and of changed good ones.
        changed: (n, H, W, 3) float32, the whole images that the last n are parts of.
        targets: (n, h, w, C) float32, what the teacher says of the first n.
        places: row and column, among the outputs, that each of the last n begins at.
    """

    seen: Any
    changed: Any
    targets: Any
    places: list[tuple[int, int]]


@dataclass
class Images:
    """What is learnt from and what is held out.

    Attributes:
        train: (n, h, w, 3) uint8.
        held: (m, h, w, 3) uint8, images that decide when to stop; not those that set the threshold.
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
        settings: of the detector.
        crop: rows and columns of outputs that a step looks at in each image; None for all.
        teacher: its weights.
        images: what is learnt from.
        device: "cpu", or a torch device.
    """

    def __init__(
        self,
        settings: EfficientAdSettings,
        crop: int | None,
        teacher: Mapping[str, NDArray[Any]],
        images: Images,
        *,
        device: str = "cpu",
    ) -> None:
        torch = import_torch()
        self.settings, self.images, self.device = settings, images, device
        size, self.n_outputs = settings.model_size, len(list(teacher.values())[-1])
        self.image_hw = settings.geometry().network_hw
        whole = output_hw(size, self.image_hw, padding=settings.padding)
        # Without AMX, Winograd's tiles in float32 are the faster way.
        self.mixed = is_gpu(device) or has_instructions("amx_bf16")
        tiled = not self.mixed and not settings.padding and min(whole) >= LEAST_TILED
        self.hw = (whole[0] // TILE * TILE, whole[1] // TILE * TILE) if tiled else whole
        self.crop_hw = self.hw if crop is None else (crop, crop)
        student, rebuilder = new_weights(size, self.n_outputs, settings.seed)
        kind: dict[str, Any] = {"device": device, "padding": settings.padding, "tiled": tiled}
        self.teacher: Network = network(teacher, size, n_heads=1, **kind)
        self.student: Network = network(student, size, n_heads=2, **kind)
        self.autoencoder = autoencoder(self.n_outputs, padding=settings.padding)
        self.autoencoder.load_state_dict({name: torch.from_numpy(array) for name, array in rebuilder.items()})
        self.autoencoder.to(device)
        self.learnt = [*self.student.tensors(), *self.autoencoder.parameters()]
        for tensor in self.learnt:
            tensor.requires_grad_()
        self.optimiser = torch.optim.Adam(self.learnt, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        self._targets: dict[int, Any] = {}
        self._kind: Any = None  # of the last step
        self._graph: tuple[Any, Callable[..., Any]] | None = None
        self.mean, self.std = self._statistics()

    def step(self, k: int, rate: float, share: float = HARD_SHARE) -> Losses:
        """Take step `k`, and return its losses; if one is no number, nothing was changed.

        Args:
            k: which step it is.
            rate: the learning rate.
            share: of the student's features that counts, the hardest.
        """
        rng = np.random.default_rng([self.settings.seed, k])
        with seeded(self.device, int(rng.integers(2**62))):  # for the autoencoder's dropout
            together = self._together(self._drawn(k, rng), share)
        losses = Losses(*together.detach().tolist())
        if not np.isfinite(losses.total):
            return losses
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        together.sum().backward()
        self.optimiser.step()
        return losses

    def held_out_loss(self) -> float:
        """Return the mean over images that are not learnt from of what the maps are made of: both distances."""
        torch = import_torch()
        sums = []
        self.autoencoder.eval()
        with torch.no_grad(), self.precision():
            for image in self.images.held:
                x = self._whole(image)
                features = self.student.features(x, self.hw)
                wanted = self.student.ordered(self._scaled(self._of_teacher(x, self.hw)))
                rebuilt = self.student.ordered(self._rebuilt(image[None].astype(np.float32)))
                said = self.student.head(features, 0), self.student.head(features, 1)
                sums.append(float(_mean_square(wanted - said[0]) + _mean_square(rebuilt - said[1])))
        self.autoencoder.train()
        return float(np.mean(sums))

    def explained(self) -> float:
        """Return how much of the teacher's variance on held-out images the autoencoder explains, from 0 to 1."""
        torch = import_torch()
        errors, variances = [], []
        self.autoencoder.eval()
        with torch.no_grad(), self.precision():
            for image in self.images.held:
                of_teacher = self._scaled(self._of_teacher(self._whole(image), self.hw))
                rebuilt = self._rebuilt(image[None].astype(np.float32))
                errors.append(float(_mean_square(of_teacher - rebuilt)))
                variances.append(float(_mean_square(of_teacher)))
        self.autoencoder.train()
        return float(np.clip(1 - sum(errors) / max(sum(variances), 1e-12), 0, 1))

    def lesson(self, i: int) -> tuple[Any, Any]:
        """Return a training image as it is, (1, 3, H, W), and what the student should say of it, (1, 2 n, h, w)."""
        torch = import_torch()
        image = self.images.train[i : i + 1]
        x = self._whole(image[0]).permute(0, 3, 1, 2)
        self.autoencoder.eval()
        with torch.no_grad(), self.precision():
            of_teacher = self._scaled(self._target(i)[None].float())
            rebuilt = self._rebuilt(image.astype(np.float32)).float()
        self.autoencoder.train()
        return x, torch.cat([of_teacher, rebuilt], 3).permute(0, 3, 1, 2)

    def precision(self) -> Any:
        """Return the context that networks run in: bfloat16 where the device multiplies it fast."""
        torch = import_torch()
        return torch.autocast(self.device.partition(":")[0], dtype=torch.bfloat16, enabled=self.mixed)

    def _drawn(self, k: int, rng: np.random.Generator) -> Drawn:
        """Return what step `k` looks at."""
        torch = import_torch()
        chosen, n = self._chosen(k), self.settings.batch_size
        places = [self._place(rng) for _ in range(2 * n)]
        plain = self._cut(self.images.train[chosen], places[:n], self.crop_hw)
        changed = jittered(rng, self.images.train[chosen])
        part = self._cut(changed, places[n:], self.crop_hw)
        other = self.images.penalty.parts(rng, n, (plain.shape[1], plain.shape[2]))
        seen = np.concatenate([plain.astype(np.float32), other.astype(np.float32), part])
        with self.precision():
            targets = self._parts([self._target(i) for i in chosen], places[:n])
        there = [torch.as_tensor(array, device=self.device) for array in (seen, changed)]
        return Drawn(there[0], there[1], targets, places[n:])

    def _together(self, drawn: Drawn, share: float) -> Any:
        """Return the four losses as one tensor; on a GPU by a graph as soon as steps are alike."""
        kind = (self.crop_hw, share)
        is_alike, self._kind = kind == self._kind, kind
        losses = partial(self._losses, drawn.places, share)
        tensors = drawn.seen, drawn.changed, drawn.targets
        if not (is_alike and is_gpu(self.device) and self.crop_hw == self.hw):
            return losses(*tensors)
        if self._graph is None or self._graph[0] != kind:
            self._graph = kind, one_launch(losses, tensors, self.learnt)
        return self._graph[1](*tensors)

    def _losses(self, places: list[tuple[int, int]], share: float, seen: Any, changed: Any, targets: Any) -> Any:
        """Return the four losses of what was drawn, (4,)."""
        torch = import_torch()
        n, ordered, student = self.settings.batch_size, self.student.ordered, self.student
        with self.precision():
            x = normalised(seen)
            features = student.features(x, self.crop_hw)
            of_teacher = student.head(student.images(features, 0, 2 * n), 0)
            of_autoencoder = student.head(student.images(features, 2 * n, 3 * n), 1)
            distances = ordered(self._scaled(targets)) - student.images(of_teacher, 0, n).float()
            rebuilt = ordered(self._parts(self._rebuilt(changed), places))
            wanted = ordered(self._scaled(self._of_teacher(x[2 * n :], self.crop_hw)))
            losses = [
                hard_loss(distances.square(), share),
                _mean_square(student.images(of_teacher, n, 2 * n)),
                _mean_square(wanted - rebuilt),
                _mean_square(rebuilt - of_autoencoder),
            ]
            return torch.stack(losses)

    def _parts(self, maps: Any, places: list[tuple[int, int]]) -> Any:
        """Return the parts of whole images' maps that a step looks at, (n, h, w, C) float32."""
        height, width = self.crop_hw
        cut = [one[r : r + height, c : c + width] for one, (r, c) in zip(maps, places, strict=True)]
        # Of float32 before they are stacked: torch's autocast on a CPU refuses to stack float16.
        return import_torch().stack([part.float() for part in cut])

    def _chosen(self, k: int) -> list[int]:
        """Return the images of step `k`: each once in an order of its own, again and again."""
        n, each = len(self.images.train), self.settings.batch_size
        found = []
        for i in range(k * each, (k + 1) * each):
            order = np.random.default_rng([self.settings.seed, 1, i // n]).permutation(n)
            found.append(int(order[i % n]))
        return found

    def _place(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return row and column of a random part's first output."""
        row, column = (int(rng.integers(whole - part + 1)) for whole, part in zip(self.hw, self.crop_hw, strict=True))
        return row, column

    def _cut(self, images: NDArray[Any], places: list[tuple[int, int]], hw: tuple[int, int]) -> NDArray[Any]:
        """Return what the outputs from these places on see of the images."""
        if self.settings.padding:
            return images
        height, width = (pixels_of(n) for n in hw)
        tops = [(STRIDE_PX * row, STRIDE_PX * column) for row, column in places]
        parts = [image[y : y + height, x : x + width] for image, (y, x) in zip(images, tops, strict=True)]
        return np.stack(parts)

    def _target(self, i: int) -> Any:
        """Return what the teacher says of a training image, (h, w, n) float16; computed once if there is room."""
        if i in self._targets:
            return self._targets[i]
        torch = import_torch()
        target = self._of_teacher(self._whole(self.images.train[i]), self.hw)[0].to(torch.float16)
        if (len(self._targets) + 1) * target.numel() * 2 <= CACHE_BYTES:
            self._targets[i] = target
        return target

    def _whole(self, image: UInt8) -> Any:
        """Return one image, normalised, as far as its outputs see of it, (1, H, W, 3)."""
        return normalised(self._cut(image[None], [(0, 0)], self.hw), self.device)

    def _of_teacher(self, x: Any, hw: tuple[int, int]) -> Any:
        """Return what the teacher says of normalised images, (N, h, w, n) float32."""
        torch = import_torch()
        with torch.no_grad():
            result = self.teacher.head(self.teacher.features(x, hw), 0)
            return self.teacher.planes(result, hw).float().contiguous()

    def _scaled(self, features: Any) -> Any:
        return (features - self.mean) / self.std

    def _rebuilt(self, images: Any) -> Any:
        """Return what the autoencoder makes of whole images, (N, h, w, n)."""
        torch = import_torch()
        x = torch.as_tensor(images, device=self.device).permute(0, 3, 1, 2) / 255
        return self.autoencoder(x).permute(0, 2, 3, 1)[:, : self.hw[0], : self.hw[1]]

    def _statistics(self) -> tuple[Any, Any]:
        """Return mean and deviation of each of the teacher's outputs on good images, (n,) float32."""
        torch = import_torch()
        n = min(len(self.images.train), MEASURED_IMAGES)
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
        std = std.clamp_min(max(DEVIATION_FLOOR * float(std.mean()), 1e-6))
        return (mean + shift).float(), std.float()


def _mean_square(x: Any) -> Any:
    return x.float().square().mean()
