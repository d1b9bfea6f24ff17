"""Solving a network's last convolution by least squares, which gradients take thousands of steps to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Of the solution towards what was learnt; the best on held-out images is taken.
SHRINKAGES = (0.001, 0.01, 0.1, 1.0, 10.0)
Batch = tuple["torch.Tensor", "torch.Tensor"]


def refit(
    network: torch.nn.Sequential,
    fit_on: Iterable[Batch],
    judge_on: list[Batch],
    *,
    every: int = 2,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[float, float]:
    """Solve the last layer by least squares, keep what is best on other images; return the losses before and after.

    The solution is shrunk towards the weights that are there, by one of several amounts.

    Args:
        network: in evaluation mode; its last layer, a convolution, is changed.
        fit_on: images (N, 3, H, W) and targets (N, C, h, w) to solve on, batch by batch.
        judge_on: others, to choose the amount on.
        every: of the outputs' rows and columns every how manieth is used: neighbours say nearly the same.
        precision: what the layers below the last run in, such as torch's autocast; the solution is of float32.

    Cost: (inputs of the last layer)^2 operations per output used: 4096 inputs for PDN-S.
    """
    import torch

    body, last = network[:-1], network[-1]
    assert isinstance(last, torch.nn.Conv2d)
    assert last.bias is not None
    weight, bias = last.weight.detach().clone(), last.bias.detach().clone()

    def inside(images: torch.Tensor) -> torch.Tensor:
        with precision():
            found: torch.Tensor = body(images)
        return found.float()

    with torch.no_grad():
        system = LeastSquares(weight[0].numel() + 1, len(weight), weight.device)
        for images, wanted in fit_on:
            seen = inside(images)
            system.add(*_rows(last, seen, wanted - last(seen), every))
        judged = [(inside(images), wanted) for images, wanted in judge_on]
        before = loss_of(last, judged)
        best = before, weight, bias
        for shrinkage in SHRINKAGES:
            change = system.solve(shrinkage)
            if change is None:
                continue
            last.weight.copy_(weight + change[:-1].T.reshape(weight.shape))
            last.bias.copy_(bias + change[-1])
            loss = loss_of(last, judged)
            if loss < best[0]:
                best = loss, last.weight.detach().clone(), last.bias.detach().clone()
        last.weight.copy_(best[1])
        last.bias.copy_(best[2])
    return before, best[0]


def loss_of(network: torch.nn.Module, batches: list[Batch]) -> float:
    """Return the mean squared error over some batches."""
    import torch

    total, n = 0.0, 0
    with torch.no_grad():
        for images, wanted in batches:
            total += float((network(images) - wanted).square().sum())
            n += wanted.numel()
    return total / n


class LeastSquares:
    """Rows and what they should give, and the map that does it best, by whichever of two equal ways is smaller."""

    def __init__(self, n_inputs: int, n_outputs: int, device: torch.device) -> None:
        self.shape, self.device = (n_inputs, n_outputs), device
        self.rows: list[Batch] = []
        self.sums: Batch | None = None

    def add(self, columns: torch.Tensor, wanted: torch.Tensor) -> None:
        """Take (n, inputs) and (n, outputs) rows; beyond as many rows as inputs, only their products are kept."""
        import torch

        self.rows.append((columns, wanted))
        if self.sums is None and sum(len(one) for one, _ in self.rows) > self.shape[0]:
            self.sums = (
                torch.zeros(self.shape[0], self.shape[0], dtype=torch.float64, device=self.device),
                torch.zeros(*self.shape, dtype=torch.float64, device=self.device),
            )
        if self.sums is not None:
            for left, right in self.rows:
                self.sums[0].add_(left.T @ left)
                self.sums[1].add_(left.T @ right)
            self.rows = []

    def solve(self, shrinkage: float) -> torch.Tensor | None:
        """Return the (inputs, outputs) map, shrunk by a multiple of the inputs' mean square.

        None where rounding leaves no solution: inputs that are all alike, as of constant images, shrunk by little.
        """
        import torch

        if self.sums is not None:
            gram, cross = self.sums
            factor, failed = torch.linalg.cholesky_ex(self._damped(gram, shrinkage))
            return None if failed else torch.cholesky_solve(cross, factor).float()
        columns, wanted = (torch.cat([row[i] for row in self.rows]).double() for i in (0, 1))
        factor, failed = torch.linalg.cholesky_ex(self._damped(columns @ columns.T, shrinkage))
        return None if failed else (columns.T @ torch.cholesky_solve(wanted, factor)).float()

    def _damped(self, gram: torch.Tensor, shrinkage: float) -> torch.Tensor:
        import torch

        scale = gram.diagonal().sum() / self.shape[0]
        return gram + shrinkage * scale * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def _rows(last: torch.nn.Conv2d, inside: torch.Tensor, error: torch.Tensor, every: int) -> Batch:
    """Return what a convolution sees at some outputs, with a 1 behind it, and what it lacks there, one row each."""
    import torch

    columns = torch.nn.functional.unfold(inside, last.kernel_size)  # type: ignore[arg-type, unused-ignore]
    columns = columns.view(*columns.shape[:2], *error.shape[2:])
    left, right = (maps[:, :, ::every, ::every].permute(0, 2, 3, 1).flatten(0, 2) for maps in (columns, error))
    return torch.cat([left, torch.ones_like(left[:, :1])], 1), right
