"""Ridge regression of a network's last convolution, which gradient descent takes thousands of steps to approach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Ridge, as a multiple of the inputs' mean square; the best on held-out images is taken.
SHRINKAGES = (0.0001, 0.001, 0.01, 0.1, 1.0)
BLOCK = 512  # inputs whose products with those before them are one product of matrices
Batch = tuple["torch.Tensor", "torch.Tensor"]


def refit_last_layer(
    features: Callable[[torch.Tensor], torch.Tensor],
    last: torch.nn.Module,
    training: Iterable[Batch],
    held_out: Iterable[Batch],
    *,
    stride: int = 2,
    shrinkages: Sequence[float] = SHRINKAGES,
) -> tuple[float, float]:
    """Set the last convolution to its ridge regression on the targets; return the held-out loss before and after.

    The ridge pulls the solution towards the present weights. If no ridge lowers the loss on held-out images, the
    present weights are kept.

    Args:
        features: of images, (N, C, h, w): the layers below, in evaluation mode.
        last: the last layer, a convolution, which is changed.
        training: images and targets (N, C, h, w) to solve on, batch by batch.
        held_out: others, to choose the ridge on.
        stride: of the outputs that are solved on, in rows and columns: neighbors are nearly equal.
        shrinkages: ridges to try, as multiples of the inputs' mean square.

    Cost: half of (inputs of the last layer)^2 operations per output used: 4096 inputs for PDN-S.
    """
    import torch

    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    weight, bias = last.weight.detach().clone(), last.bias.detach().clone()
    with torch.no_grad():
        regression = RidgeRegression(weight[0].numel() + 1, len(weight), weight.device)
        for images, targets in training:
            inputs = features(images).float()
            regression.add(*_rows(last, inputs, targets, stride))
        validation = [(features(images).float(), targets) for images, targets in held_out]
        before = mean_squared_error(last, validation)
        best = before, weight, bias
        for shrinkage in shrinkages:
            change = regression.solve(shrinkage)
            if change is None:
                continue
            last.weight.copy_(weight + change[:-1].T.reshape(weight.shape))
            last.bias.copy_(bias + change[-1])
            loss = mean_squared_error(last, validation)
            if loss < best[0]:
                best = loss, last.weight.detach().clone(), last.bias.detach().clone()
        last.weight.copy_(best[1])
        last.bias.copy_(best[2])
    return before, best[0]


def mean_squared_error(network: torch.nn.Module, batches: list[Batch]) -> float:
    """Return the mean squared error of a network over batches of inputs and targets."""
    import torch

    total, n = 0.0, 0
    with torch.no_grad():
        for inputs, targets in batches:
            total += float((network(inputs) - targets).square().sum())
            n += targets.numel()
    return total / n


class RidgeRegression:
    """Ridge regression from rows that come in batches: dual form up to as many rows as inputs, primal beyond."""

    def __init__(self, n_inputs: int, n_outputs: int, device: torch.device) -> None:
        self.shape, self.device = (n_inputs, n_outputs), device
        self.rows: list[Batch] = []
        self.sums: Batch | None = None

    def add(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Add (n, inputs) and (n, outputs) rows; of each as many as there are inputs, only the products are kept."""
        self.rows.append((inputs, targets))
        if sum(len(rows) for rows, _ in self.rows) > self.shape[0]:
            self._multiply()

    def _multiply(self) -> None:
        """Add the products of the rows to their sums, many rows at a time: a sum is 134 MB for PDN-S.

        Of the symmetric one only blocks on and below the diagonal: half the work, and all that `solve` reads.
        """
        import torch

        if self.sums is None:
            self.sums = (
                torch.zeros(self.shape[0], self.shape[0], dtype=torch.float64, device=self.device),
                torch.zeros(*self.shape, dtype=torch.float64, device=self.device),
            )
        if self.rows:
            left, right = (torch.cat([row[i] for row in self.rows]) for i in (0, 1))
            for start in range(0, self.shape[0], BLOCK):
                block = slice(start, start + BLOCK)
                self.sums[0][block, : block.stop].add_(left[:, block].T @ left[:, : block.stop])
            self.sums[1].add_(left.T @ right)
        self.rows = []

    def solve(self, shrinkage: float) -> torch.Tensor | None:
        """Return the (inputs, outputs) solution with a ridge of `shrinkage` times the inputs' mean square.

        None where the system is singular after rounding: equal inputs, as of constant images, and a small ridge.
        """
        import torch

        if self.sums is not None:
            self._multiply()
            gram, cross = self.sums
            factor, failed = torch.linalg.cholesky_ex(self._with_ridge(gram, shrinkage))
            return None if failed else torch.cholesky_solve(cross, factor).float()
        inputs, targets = (torch.cat([row[i] for row in self.rows]).double() for i in (0, 1))
        factor, failed = torch.linalg.cholesky_ex(self._with_ridge(inputs @ inputs.T, shrinkage))
        return None if failed else (inputs.T @ torch.cholesky_solve(targets, factor)).float()

    def _with_ridge(self, gram: torch.Tensor, shrinkage: float) -> torch.Tensor:
        import torch

        scale = gram.diagonal().sum() / self.shape[0]
        return gram + shrinkage * scale * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def _rows(last: torch.nn.Conv2d, inputs: torch.Tensor, targets: torch.Tensor, stride: int) -> Batch:
    """Return the convolution's inputs at outputs `stride` apart, with a 1 for the bias, and the residuals there."""
    import torch

    assert last.bias is not None
    columns = torch.nn.functional.unfold(inputs, last.kernel_size)  # type: ignore[arg-type, unused-ignore]
    columns = columns.view(*columns.shape[:2], *targets.shape[2:])
    left, right = (maps[:, :, ::stride, ::stride].permute(0, 2, 3, 1).flatten(0, 2) for maps in (columns, targets))
    present = torch.addmm(last.bias, left, last.weight.flatten(1).T)
    return torch.cat([left, torch.ones_like(left[:, :1])], 1), right - present
