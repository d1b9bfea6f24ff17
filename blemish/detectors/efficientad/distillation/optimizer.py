"""Muon for kernels and Adam for other parameters, with a state of plain tensors for exact checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MOMENTUM = 0.9
ADAM_BETAS = (0.9, 0.99)
ADAM_RATE = 0.15  # over Muon's rate, which is a share of a kernel's norm; Adam's is per weight
EPSILON = 1e-8
# Coefficients of a quintic iteration that brings singular values near 1 in five steps: Jordan et al. 2024, "Muon".
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon:
    """Muon for convolutions before a batch norm, which cancels their norm; Adam for all other parameters.

    A step of Muon is the orthogonalised momentum, scaled to a share of the kernel's norm: fewer steps than Adam needs.

    Args:
        kernels: names of those that Muon updates; their norm is kept constant.

    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; Kingma and Ba 2015 (arXiv 1412.6980).
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], kernels: frozenset[str]) -> None:
        import torch

        self.parameters = dict(parameters)
        self.kernels = kernels
        self.n_steps = 0
        self.state: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            self.state[f"first.{name}"] = torch.zeros_like(parameter)
            if name not in kernels:
                self.state[f"second.{name}"] = torch.zeros_like(parameter)
            else:
                _normalise(parameter)

    def step(self, rate: float) -> None:
        """Update every parameter; `rate` is the length of a kernel's step as a share of its norm."""
        import torch

        self.n_steps += 1
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                assert parameter.grad is not None
                if name in self.kernels:
                    self._muon(name, parameter, parameter.grad, rate)
                else:
                    self._adam(name, parameter, parameter.grad, rate * ADAM_RATE)
                parameter.grad = None

    def load(self, state: Mapping[str, torch.Tensor], n_steps: int) -> None:
        """Continue from a state after `n_steps`."""
        self.state, self.n_steps = {name: state[name].clone() for name in self.state}, n_steps

    def _muon(self, name: str, parameter: torch.Tensor, gradient: torch.Tensor, rate: float) -> None:
        first = self.state[f"first.{name}"]
        first.mul_(MOMENTUM).add_(gradient)
        ahead = gradient + MOMENTUM * first
        update = orthogonal(ahead.flatten(1)).view_as(parameter)
        parameter.sub_(update * (rate * parameter.norm() / (update.norm() + EPSILON)))
        _normalise(parameter)

    def _adam(self, name: str, parameter: torch.Tensor, gradient: torch.Tensor, rate: float) -> None:
        first, second = self.state[f"first.{name}"], self.state[f"second.{name}"]
        first.mul_(ADAM_BETAS[0]).add_(gradient, alpha=1 - ADAM_BETAS[0])
        second.mul_(ADAM_BETAS[1]).addcmul_(gradient, gradient, value=1 - ADAM_BETAS[1])
        mean = first / (1 - ADAM_BETAS[0] ** self.n_steps)
        root = (second / (1 - ADAM_BETAS[1] ** self.n_steps)).sqrt()
        parameter.sub_(rate * mean / (root + EPSILON))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return the orthogonal factor of a matrix, with singular values near 1, (rows, columns) float32."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x: torch.Tensor = wide / (wide.norm() + 1e-7)
    a, b, c = QUINTIC
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def _normalise(kernel: torch.Tensor) -> None:
    """Scale a kernel to the norm at which its outputs have the variance of its inputs."""
    import torch

    with torch.no_grad():
        kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
