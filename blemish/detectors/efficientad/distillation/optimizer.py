"""The optimiser that distils a teacher, with a state of plain tensors, so that a run goes on exactly where it stood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MOMENTUM = 0.9
ADAM_BETAS = (0.9, 0.99)
ADAM_RATE = 0.15  # of Adam's step beside Muon's: Muon's is a share of the weights' length, Adam's is per weight
EPSILON = 1e-8
# Coefficients of a quintic iteration that brings singular values near 1 in five steps: Jordan et al. 2024, "Muon".
QUINTIC = (3.4445, -4.7750, 2.0315)


class Descent:
    """Muon for convolutions whose length does not matter (a batch norm follows), Adam for everything else.

    A step of Muon turns each kernel's matrix by a share of its length, in all directions alike, which pays where steps
    are few and dear.

    Args:
        parameters: by name. Those in `turned` are kept at a fixed length.
        turned: names of the convolutions that Muon moves.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; Kingma and Ba 2015 (arXiv 1412.6980).
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], turned: frozenset[str]) -> None:
        import torch

        self.parameters = dict(parameters)
        self.turned = turned
        self.n_steps = 0
        self.state: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            self.state[f"first.{name}"] = torch.zeros_like(parameter)
            if name not in turned:
                self.state[f"second.{name}"] = torch.zeros_like(parameter)
            else:
                _to_length(parameter)

    def step(self, rate: float) -> None:
        """Move every parameter against its gradient; `rate` is the share of their length that kernels move by."""
        import torch

        self.n_steps += 1
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                assert parameter.grad is not None
                if name in self.turned:
                    self._turn(name, parameter, parameter.grad, rate)
                else:
                    self._adam(name, parameter, parameter.grad, rate * ADAM_RATE)
                parameter.grad = None

    def load(self, state: Mapping[str, torch.Tensor], n_steps: int) -> None:
        """Go on with the state of another one after `n_steps`."""
        self.state, self.n_steps = {name: state[name].clone() for name in self.state}, n_steps

    def _turn(self, name: str, parameter: torch.Tensor, gradient: torch.Tensor, rate: float) -> None:
        first = self.state[f"first.{name}"]
        first.mul_(MOMENTUM).add_(gradient)
        ahead = gradient + MOMENTUM * first
        update = orthogonal(ahead.flatten(1)).view_as(parameter)
        parameter.sub_(update * (rate * parameter.norm() / (update.norm() + EPSILON)))
        _to_length(parameter)

    def _adam(self, name: str, parameter: torch.Tensor, gradient: torch.Tensor, rate: float) -> None:
        first, second = self.state[f"first.{name}"], self.state[f"second.{name}"]
        first.mul_(ADAM_BETAS[0]).add_(gradient, alpha=1 - ADAM_BETAS[0])
        second.mul_(ADAM_BETAS[1]).addcmul_(gradient, gradient, value=1 - ADAM_BETAS[1])
        mean = first / (1 - ADAM_BETAS[0] ** self.n_steps)
        root = (second / (1 - ADAM_BETAS[1] ** self.n_steps)).sqrt()
        parameter.sub_(rate * mean / (root + EPSILON))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix with all its singular values brought near 1, (rows, columns) float32."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x: torch.Tensor = wide / (wide.norm() + 1e-7)
    a, b, c = QUINTIC
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def _to_length(kernel: torch.Tensor) -> None:
    """Bring a kernel to the length at which its outputs have the variance of its inputs."""
    import torch

    with torch.no_grad():
        kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
