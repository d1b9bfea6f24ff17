"""What one output of a stack of convolutions and pools sees of the image, exactly, step by step.

Everything is counted in whole pixels along one axis; both axes of a square kernel are alike.
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
        size: pixels of the image that one output sees (its receptive field).
        stride: pixels from one output's field to the next one's.
        first: the first pixel of output 0's field; negative where the field begins in the padding.
    """

    size: int = 1
    stride: int = 1
    first: int = 0

    @property
    def centre(self) -> float:
        """The middle of output 0's field, in pixels from the middle of the image's first one."""
        return self.first + (self.size - 1) / 2

    def behind(self, layer: Layer) -> Field:
        """Return the field of an output of `layer`, whose inputs have this field."""
        return Field(
            size=self.size + (layer.reach - 1) * self.stride,
            stride=self.stride * layer.stride,
            first=self.first - layer.padding * self.stride,
        )

    def span(self, index: int, size: int | None = None) -> tuple[int, int]:
        """Return (start, stop) of the pixels that output `index` sees, cut to an image of `size` pixels if given."""
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
    """Return the size behind each layer for an image of `size` pixels.

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
    """Return the layers that a line describes: `conv4,pool2/2,conv3p1`.

    Each is `conv` or `pool` and the kernel, then if they are not 1, 0 and 1: `/` and the stride, `p` and the padding,
    `d` and the dilation.

    Raises:
        InputError: if a part is none of that.

    >>> parse_stack("conv3/2p1, pool2/2")[0]
    Layer(name='conv1', kernel=3, stride=2, padding=1, padding_after=None, dilation=1)
    """
    counts: dict[str, int] = {}
    found = []
    for part in text.split(","):
        match = LAYER.fullmatch(part.strip().lower())
        if match is None:
            todo = "Write conv or pool and the kernel, then /stride, p and padding, d and dilation: conv3/2p1."
            raise InputError(message("stack", "layers with commas between", repr(part.strip()[:40]), todo=todo))
        kind, kernel, stride, padding, dilation = match.groups()
        counts[kind] = counts.get(kind, 0) + 1
        name = f"{kind}{counts[kind]}"
        found.append(Layer(name, int(kernel), int(stride or 1), int(padding or 0), dilation=int(dilation or 1)))
    return tuple(found)


def least_size(layers: Sequence[Layer]) -> int:
    """Return the smallest image, in pixels, that has an output.

    >>> least_size(parse_stack("conv4,pool2/2,conv4,pool2/2,conv3,conv4"))
    33
    """
    low, high = 1, receptive_field(layers).size
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _has_output(layers, middle) else (middle + 1, high)
    return low


def _has_output(layers: Sequence[Layer], size: int) -> bool:
    for layer in layers:
        size = layer.output_size(size)
        if size == 0:
            return False
    return True


@dataclass(frozen=True)
class Step:
    """One line of a derivation: the image, or what a layer makes of it.

    Attributes:
        name: "image", or the layer's.
        layer: None for the image.
        size: of the map, in places.
        field: what one of them sees.
    """

    name: str
    layer: Layer | None
    size: int
    field: Field


def derive(layers: Sequence[Layer], size: int | None = None) -> list[Step]:
    """Return the steps from an image to the last layer's output: how the map shrinks and the field grows.

    Args:
        layers: the stack.
        size: of the image in pixels; by default what one output sees, so that without padding the last map is 1.

    Raises:
        InputError: if the image is too small for an output.
    """
    size = receptive_field(layers).size if size is None else size
    if not _has_output(layers, size):
        least = least_size(layers)
        raise InputError(message("size", f"at least {least} pixels, for one output", str(size)))
    field = Field()
    steps = [Step("image", None, size, field)]
    for layer, behind in zip(layers, output_sizes(layers, size), strict=True):
        field = field.behind(layer)
        steps.append(Step(layer.name, layer, behind, field))
    return steps


def explain(steps: Sequence[Step]) -> list[str]:
    """Return a derivation as lines of text: a table, and how to read it."""
    width = max(8, *(len(step.name) for step in steps))
    lines = [f"{'':{width}}  kernel  stride  padding    map  one value sees  its neighbour"]
    for step in steps:
        one = step.layer
        settings = " " * 23 if one is None else f"{_kernel(one):>6}  {one.stride:>6}  {_padding(one):>7}"
        lines.append(
            f"{step.name:{width}}  {settings:23}  {step.size:>5}  {step.field.size:>11} px"
            f"  {step.field.stride:>7} px on"
        )
    first, last = steps[0], steps[-1]
    sizes = " -> ".join(str(step.size) for step in steps)
    grown = [(step.layer.reach - 1, before.field.stride) for before, step in pairwise(steps) if step.layer is not None]
    total = " + ".join(f"{more} x {stride}" for more, stride in grown if more)
    outputs = "1 output" if last.size == 1 else f"{last.size} outputs"
    lines += [
        "",
        f"Along one side, {first.size} pixels become {outputs}: {sizes}.",
        f"A layer of kernel k lets a value see k - 1 more inputs: 1 + {total or '0'} = {last.field.size} pixels.",
        f"So one output describes a patch of {last.field.size} x {last.field.size} pixels. The first one's middle is at"
        f" pixel {last.field.centre:g}; each neighbour's is {last.field.stride} pixels on.",
    ]
    return lines


def _kernel(layer: Layer) -> str:
    return str(layer.kernel) if layer.dilation == 1 else f"{layer.kernel} (every {layer.dilation}.)"


def _padding(layer: Layer) -> str:
    same = layer.padding_after in (None, layer.padding)
    return str(layer.padding) if same else f"{layer.padding}, {layer.padding_after}"
