"""Receptive field of a stack of convolutions and pools: size, stride and position, with the derivation.

Units are pixels along one axis; both axes of a square kernel are alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from blemish.errors import InputError, message

LAYER = re.compile(r"(conv|pool)([0-9]{1,6})(?:/([0-9]{1,6}))?(?:p([0-9]{1,6}))?(?:d([0-9]{1,6}))?")


@dataclass(frozen=True)
class Layer:
    """One convolution or pool, along one axis.

    Attributes:
        kernel: inputs that one output reads, at `dilation` 1.
        stride: steps of the input per step of the output.
        padding: rows added before the first one.
        padding_after: rows added after the last one; None for as many as before.
        dilation: distance of the inputs that one output reads.
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
        """Extent of the kernel: inputs from the first that an output reads to the last."""
        return self.dilation * (self.kernel - 1) + 1

    def output_size(self, size: int) -> int:
        """Return the number of outputs for an input of `size` pixels; 0 if it is too small."""
        after = self.padding if self.padding_after is None else self.padding_after
        return max(0, (size + self.padding + after - self.reach) // self.stride + 1)


@dataclass(frozen=True)
class Field:
    """Receptive field of a stack's outputs along one axis.

    Attributes:
        size: pixels of one output's receptive field.
        stride: pixels from one output's field to its neighbor's.
        first: first pixel of output 0's field; negative where it lies in the padding.
    """

    size: int = 1
    stride: int = 1
    first: int = 0

    @property
    def centre(self) -> float:
        """Centre of output 0's field, in pixels from the centre of the image's first pixel."""
        return self.first + (self.size - 1) / 2

    def behind(self, layer: Layer) -> Field:
        """Return the field of the outputs of `layer`, whose inputs have this field."""
        return Field(
            size=self.size + (layer.reach - 1) * self.stride,
            stride=self.stride * layer.stride,
            first=self.first - layer.padding * self.stride,
        )

    def span(self, index: int, size: int | None = None) -> tuple[int, int]:
        """Return (start, stop) pixels of output `index`'s field, clipped to an image of `size` pixels if given."""
        start = self.first + index * self.stride
        stop = start + self.size
        return (start, stop) if size is None else (min(max(start, 0), size), max(min(stop, size), 0))


def receptive_field(layers: Sequence[Layer]) -> Field:
    """Return the receptive field of the last layer's outputs.

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
    """Return the output size of each layer for an image of `size` pixels.

    >>> stack = [Layer("conv1", 4), Layer("pool1", 2, 2), Layer("conv2", 4), Layer("pool2", 2, 2)]
    >>> output_sizes([*stack, Layer("conv3", 3), Layer("conv4", 4)], 33)
    [30, 15, 12, 6, 4, 1]
    """
    sizes = []
    for layer in layers:
        size = layer.output_size(size)
        sizes.append(size)
    return sizes


def parse_stack(text: str) -> tuple[Layer, ...]:
    """Return the layers of a description such as `conv4,pool2/2,conv3p1`.

    Each is `conv` or `pool` and the kernel, then optionally `/` and the stride, `p` and the padding, `d` and the
    dilation.

    Raises:
        InputError: if a part has another form.

    >>> parse_stack("conv3/2p1, pool2/2")[0]
    Layer(name='conv1', kernel=3, stride=2, padding=1, padding_after=None, dilation=1)
    """
    counts: dict[str, int] = {}
    layers = []
    for part in text.split(","):
        match = LAYER.fullmatch(part.strip().lower())
        if match is None:
            todo = "Write conv or pool and the kernel, then /stride, p and padding, d and dilation: conv3/2p1."
            raise InputError(message("stack", "layers with commas between", repr(part.strip()[:40]), todo=todo))
        kind, kernel, stride, padding, dilation = match.groups()
        counts[kind] = counts.get(kind, 0) + 1
        name = f"{kind}{counts[kind]}"
        layers.append(Layer(name, int(kernel), int(stride or 1), int(padding or 0), dilation=int(dilation or 1)))
    return tuple(layers)


def least_size(layers: Sequence[Layer]) -> int:
    """Return the smallest image, in pixels, that has an output.

    >>> least_size(parse_stack("conv4,pool2/2,conv4,pool2/2,conv3,conv4"))
    33
    """
    low, high = 1, receptive_field(layers).size
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if all(output_sizes(layers, middle)) else (middle + 1, high)
    return low


@dataclass(frozen=True)
class Step:
    """One line of a derivation, the image or the output of a layer: size of the map, and field of a position."""

    name: str
    layer: Layer | None
    size: int
    field: Field


def derive(layers: Sequence[Layer], size: int | None = None) -> list[Step]:
    """Return map size and receptive field of the image and of each layer's output.

    Args:
        size: of the image in pixels; by default the receptive field, so that without padding the last map has size 1.

    Raises:
        InputError: if the image is too small for an output.
    """
    size = receptive_field(layers).size if size is None else size
    if not all(output_sizes(layers, size)):
        least = least_size(layers)
        raise InputError(message("size", f"at least {least} pixels, for one output", str(size)))
    field = Field()
    steps = [Step("image", None, size, field)]
    for layer, output_size in zip(layers, output_sizes(layers, size), strict=True):
        field = field.behind(layer)
        steps.append(Step(layer.name, layer, output_size, field))
    return steps


def explain(steps: Sequence[Step]) -> list[str]:
    """Return a derivation as lines of text: a table and a summary."""
    width = max(8, *(len(step.name) for step in steps))
    lines = [f"{'':{width}}  kernel  stride  padding    map  receptive field      stride"]
    for step in steps:
        layer = step.layer
        settings = " " * 23 if layer is None else f"{_kernel(layer):>6}  {layer.stride:>6}  {_padding(layer):>7}"
        lines.append(
            f"{step.name:{width}}  {settings:23}  {step.size:>5}  {step.field.size:>12} px  {step.field.stride:>7} px"
        )
    first, last = steps[0], steps[-1]
    sizes = " -> ".join(str(step.size) for step in steps)
    grown = [(step.layer.reach - 1, before.field.stride) for before, step in pairwise(steps) if step.layer is not None]
    total = " + ".join(f"{more} x {stride}" for more, stride in grown if more)
    outputs = "1 output" if last.size == 1 else f"{last.size} outputs"
    lines += [
        "",
        f"Along one side, {first.size} pixels become {outputs}: {sizes}.",
        f"A layer of kernel k adds k - 1 strides of its input: 1 + {total or '0'} = {last.field.size} pixels.",
        f"One output describes a patch of {last.field.size} x {last.field.size} pixels. The first one's centre is at"
        f" pixel {last.field.centre:g}; each neighbor's is {last.field.stride} pixels on.",
    ]
    return lines


def _kernel(layer: Layer) -> str:
    return str(layer.kernel) if layer.dilation == 1 else f"{layer.kernel} (every {layer.dilation}.)"


def _padding(layer: Layer) -> str:
    same = layer.padding_after in (None, layer.padding)
    return str(layer.padding) if same else f"{layer.padding}, {layer.padding_after}"
