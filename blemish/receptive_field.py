"""What one output of a stack of convolutions and pools sees of the picture, exactly, step by step.

Everything is counted in whole pixels along one axis; both axes of a square kernel are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blemish.errors import InputError, message


@dataclass(frozen=True)
class Layer:
    """One convolution or pool, along one axis.

    Attributes:
        name: what the table calls it.
        kernel: pixels that one output reads, at `dilation` 1.
        stride: steps of the input per step of the output.
        padding: rows added before the first.
        padding_after: rows added behind the last; None for as many as before.
        dilation: distance of the pixels that one output reads.
    """

    name: str
    kernel: int
    stride: int = 1
    padding: int = 0
    padding_after: int | None = None
    dilation: int = 1

    def __post_init__(self) -> None:
        after = 0 if self.padding_after is None else self.padding_after
        for field, value, low in (
            ("kernel", self.kernel, 1),
            ("stride", self.stride, 1),
            ("padding", self.padding, 0),
            ("padding_after", after, 0),
            ("dilation", self.dilation, 1),
        ):
            if type(value) is not int or not low <= value <= 1 << 20:
                raise InputError(message(field, f"a whole number of at least {low}", repr(value), where=self.name))

    @property
    def reach(self) -> int:
        """Pixels of the layer's input from the first that an output reads to the last."""
        return self.dilation * (self.kernel - 1) + 1

    def output_size(self, size: int) -> int:
        """Return how many outputs an input of `size` pixels has; 0 if it is too small for any."""
        after = self.padding if self.padding_after is None else self.padding_after
        return max(0, (size + self.padding + after - self.reach) // self.stride + 1)


@dataclass(frozen=True)
class Field:
    """What an output of a stack sees, along one axis.

    Attributes:
        size: pixels of the picture that one output sees (its receptive field).
        stride: pixels from one output's field to the next one's.
        first: the first pixel of output 0's field; negative where the field begins in the padding.
    """

    size: int = 1
    stride: int = 1
    first: int = 0

    @property
    def centre(self) -> float:
        """The middle of output 0's field, in pixels from the middle of the picture's first one."""
        return self.first + (self.size - 1) / 2

    def behind(self, layer: Layer) -> Field:
        """Return the field of an output of `layer`, whose inputs have this field."""
        return Field(
            size=self.size + (layer.reach - 1) * self.stride,
            stride=self.stride * layer.stride,
            first=self.first - layer.padding * self.stride,
        )

    def span(self, index: int, size: int | None = None) -> tuple[int, int]:
        """Return (start, stop) of the pixels that output `index` sees, cut to a picture of `size` pixels if given."""
        start = self.first + index * self.stride
        stop = start + self.size
        return (start, stop) if size is None else (min(max(start, 0), size), max(min(stop, size), 0))


def receptive_field(layers: Sequence[Layer]) -> Field:
    """Return what an output behind all `layers` sees.

    >>> stack = [Layer("conv1", 4), Layer("pool1", 2, 2), Layer("conv2", 4), Layer("pool2", 2, 2)]
    >>> receptive_field([*stack, Layer("conv3", 3), Layer("conv4", 4)])
    Field(size=33, stride=4, first=0)

    Source: Araujo, Norris and Sim 2019 (doi 10.23915/distill.00021), the recurrences of section "Single path".
    """
    field = Field()
    for layer in layers:
        field = field.behind(layer)
    return field


def output_sizes(layers: Sequence[Layer], size: int) -> list[int]:
    """Return the size behind each layer for a picture of `size` pixels.

    >>> stack = [Layer("conv1", 4), Layer("pool1", 2, 2), Layer("conv2", 4), Layer("pool2", 2, 2)]
    >>> output_sizes([*stack, Layer("conv3", 3), Layer("conv4", 4)], 33)
    [30, 15, 12, 6, 4, 1]
    """
    sizes = []
    for layer in layers:
        size = layer.output_size(size)
        sizes.append(size)
    return sizes
