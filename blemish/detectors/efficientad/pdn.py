"""Patch description networks (teacher, student) and autoencoder of EfficientAD, and the layouts of their weights.

Torch is imported by the functions that build networks alone. Layer names are those of anomalib's checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from blemish.errors import InputError, ModelFileError, install, message
from blemish.ops.receptive_field import Layer, least_size, output_sizes

if TYPE_CHECKING:
    import torch

Size = Literal["small", "medium"]
SIZES = ("small", "medium")
N_FEATURES = 384  # Batzner et al. 2024, table 6
# Name, outputs (0: n_outputs), kernel, padding of a network that pads. Batzner et al. 2024, tables 6 and 7;
# the paddings are those of github.com/nelson1425/EfficientAD, common.py.
CONVS: dict[str, tuple[tuple[str, int, int, int], ...]] = {
    "small": (("conv1", 128, 4, 3), ("conv2", 256, 4, 3), ("conv3", 256, 3, 1), ("conv4", 0, 4, 0)),
    "medium": (
        ("conv1", 256, 4, 3),
        ("conv2", 512, 4, 3),
        ("conv3", 512, 1, 0),
        ("conv4", 512, 3, 1),
        ("conv5", 0, 4, 0),
        ("conv6", 0, 1, 0),
    ),
}
POOLED = ("conv1", "conv2")  # followed by an average pool of 2 x 2, with a padding of 1 in a network that pads
# Table 8 of the paper: name, inputs, outputs, kernel, stride, padding.
ENCODER = (
    ("enconv1", 3, 32, 4, 2, 1),
    ("enconv2", 32, 32, 4, 2, 1),
    ("enconv3", 32, 64, 4, 2, 1),
    ("enconv4", 64, 64, 4, 2, 1),
    ("enconv5", 64, 64, 4, 2, 1),
    ("enconv6", 64, 64, 8, 1, 0),
)
DECODER = (
    *((f"deconv{n}", 64, 64, 4, 1, 2) for n in range(1, 7)),
    ("deconv7", 64, 64, 3, 1, 1),
    ("deconv8", 64, 0, 3, 1, 1),
)
FIELD_PX, STRIDE_PX = 33, 4  # receptive field of an output, and the distance to the next
BOTTLENECK = 8  # kernel of the last convolution of the encoder: 256 px after five halvings
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INSTALL = f"{install('blemish[train]')}."


def import_torch() -> Any:
    """Return the module `torch`, or raise InputError if it is not installed or does not start."""
    try:
        import torch
    except (ImportError, OSError) as error:
        got = "no module of that name" if isinstance(error, ModuleNotFoundError) else repr(str(error)[:120])
        raise InputError(message("torch", "to be installed, to train", got, todo=INSTALL)) from error
    return torch


def check_size(size: Any, name: str = "size") -> Size:
    """Return "small" or "medium", or raise InputError; for "S" and "M" of older anomalib it has the present name.

    >>> check_size("M", "model_size")
    Traceback (most recent call last):
    ...
    blemish.errors.InputError: model_size: expected small or medium, got 'M'. Write model_size="medium".
    """
    if size in SIZES:
        return "small" if size == "small" else "medium"
    near = [known for known in SIZES if isinstance(size, str) and size and known.startswith(size.lower())]
    todo = f'Write {name}="{near[0]}".' if near else ""
    raise InputError(message(name, " or ".join(SIZES), repr(size), todo=todo))


def layers(size: Size = "small", *, padding: bool = False) -> tuple[Layer, ...]:
    """Return the convolutions and pools of a patch description network, for `receptive_field`."""
    stack = []
    for name, _, kernel, pad in CONVS[check_size(size)]:
        stack.append(Layer(name, kernel, padding=pad if padding else 0))
        if name in POOLED:
            stack.append(Layer(f"pool{name[-1]}", 2, 2, padding=int(padding)))
    return tuple(stack)


def output_hw(size: Size, image_hw: tuple[int, int], *, padding: bool = False) -> tuple[int, int]:
    """Return rows and columns of the networks' outputs for an image.

    Raises:
        InputError: if the image is smaller than the receptive field, 33 x 33 pixels without padding.

    >>> output_hw("small", (256, 256))
    (56, 56)
    """
    stack = layers(size, padding=padding)
    height, width = (output_sizes(stack, pixels)[-1] for pixels in image_hw)
    if min(height, width) < 1:
        least = least_size(stack)
        todo = "Give larger images, or a larger image_size."
        raise InputError(message("image", f"at least {least} x {least} pixels", f"{image_hw}", todo=todo))
    return height, width


def pixels_of(n_outputs: int) -> int:
    """Return the pixels that a row of so many outputs sees without padding.

    >>> pixels_of(56)
    253
    """
    return FIELD_PX + STRIDE_PX * (n_outputs - 1)


def pdn(size: Size = "small", n_outputs: int = N_FEATURES, *, padding: bool = False) -> torch.nn.Sequential:
    """Return a new patch description network: a teacher with 384 outputs, a student with 768.

    Input: float32 (B, 3, H, W) RGB from 0 to 1, normalised inside by ImageNet's mean and standard deviation. Output:
    (B, n_outputs, h, w), with (h, w) of `output_hw`. State dict: `conv1.weight`, `conv1.bias`, ... alone.

    Args:
        n_outputs: channels of the result.
        padding: whether the convolutions pad with zeros, so that 256 pixels give 64 outputs instead of 56.

    Raises:
        InputError: if the size is neither, or torch is missing.

    Source: Batzner et al. 2024 (arXiv 2303.14535), tables 6 and 7.
    """
    import_torch()
    from torch import nn

    parts: list[tuple[str, nn.Module]] = [("normalise", _normalise())]
    channels = 3
    convs = CONVS[check_size(size)]
    for name, width, kernel, pad in convs:
        conv = nn.Conv2d(channels, width or n_outputs, kernel, padding=pad if padding else 0)
        parts.append((name, conv))
        channels = conv.out_channels
        if name != convs[-1][0]:
            parts.append((f"relu{name[-1]}", nn.ReLU()))
        if name in POOLED:
            parts.append((f"pool{name[-1]}", nn.AvgPool2d(2, 2, padding=int(padding))))
    return nn.Sequential(OrderedDict(parts))


def autoencoder(n_outputs: int = N_FEATURES, *, padding: bool = False) -> torch.nn.Module:
    """Return a new autoencoder, whose result has the size of a PDN's: float32 (B, 3, H, W) to (B, n_outputs, h, w).

    An image of any size can be given. The resizing steps of the decoder follow the image's size as anomalib's do
    (3, 8, 15, 32, 63, 127 and 56 for 256 pixels). Where fewer than 8 x 8 features reach the last convolution of the
    encoder, that is below 256 pixels, they are brought to 8 bilinearly.

    Args:
        padding: whether the PDNs beside it pad; only the size of the result depends on it.

    Source: Batzner et al. 2024, table 8; six strided and eight further convolutions, dropout 0.2 behind the first six
        of the decoder.
    """
    import_torch()
    from torch import nn
    from torch.nn.functional import interpolate

    class Autoencoder(nn.Module):
        """Encoder to 64 numbers (at 256 pixels), decoder to the features of a teacher."""

        def __init__(self) -> None:
            super().__init__()
            self.normalise = _normalise()
            convs = {
                name: nn.Conv2d(into, out or n_outputs, kernel, stride, padding)
                for name, into, out, kernel, stride, padding in (*ENCODER, *DECODER)
            }
            self.encoder = nn.ModuleDict({name: convs[name] for name, *_ in ENCODER})
            self.decoder = nn.ModuleDict({name: convs[name] for name, *_ in DECODER})
            self.dropout = nn.Dropout(0.2)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            """Return the predicted features of the teacher."""
            x = self.normalise(image)
            *strided, last = self.encoder.values()
            for conv in strided:
                x = conv(x).relu()
            x = last(_at_least(x, BOTTLENECK))
            *resized, seventh, eighth = self.decoder.values()
            *sizes, final = decoder_sizes((int(image.shape[2]), int(image.shape[3])), padding=padding)
            for conv, size in zip(resized, sizes, strict=True):
                x = self.dropout(conv(interpolate(x, size=size, mode="bilinear")).relu())
            features: torch.Tensor = eighth(seventh(interpolate(x, size=final, mode="bilinear")).relu())
            return features

    return Autoencoder()


def decoder_sizes(image_hw: tuple[int, int], *, padding: bool = False) -> list[tuple[int, int]]:
    """Return the sizes of the decoder's bilinear resizing before each of its convolutions but the last.

    >>> [height for height, _ in decoder_sizes((256, 256))]
    [3, 8, 15, 32, 63, 127, 56]
    """
    steps = [(64, 1), (32, 0), (16, 1), (8, 0), (4, 1), (2, 1)]  # anomalib 2.6, efficient_ad/torch_model.py, Decoder
    height, width = image_hw
    sizes = [(max(1, height // by - less), max(1, width // by - less)) for by, less in steps]
    return [*sizes, output_hw("small", image_hw, padding=padding)]


def arrange(
    state: Mapping[str, NDArray[Any]],
    size: Size = "small",
    *,
    n_outputs: int | None = N_FEATURES,
    part: str = "teacher",
    where: object = None,
) -> dict[str, NDArray[np.float32]]:
    """Return the weights of a patch description network by this package's names, checked.

    Args:
        state: tensors by name, in this package's layout or anomalib's (`conv1.weight`, also inside a checkpoint as
            `model.teacher.conv1.weight`), or nelson1425's (`0.weight`, `3.weight`, ...).
        n_outputs: how many outputs it should have; None for as many as the last convolution has.
        part: "teacher" or "student", for a file that holds both.

    Raises:
        ModelFileError: if the weights are of another network, or not finite.
    """
    shapes = pdn_shapes(size)
    named = _in_our_names(state, shapes, (f"model.{part}.", f"{part}."))
    if n_outputs is None:
        bias = named.get(list(shapes)[-1])
        n_outputs = len(bias) if bias is not None and bias.ndim == 1 else N_FEATURES
    return _checked(named, pdn_shapes(size, n_outputs), f"PDN {size} {part}", where)


def arrange_autoencoder(
    state: Mapping[str, NDArray[Any]], *, n_outputs: int = N_FEATURES, where: object = None
) -> dict[str, NDArray[np.float32]]:
    """Return the weights of an autoencoder by this package's names, checked; layouts as `arrange`."""
    shapes = autoencoder_shapes(n_outputs)
    return _checked(_in_our_names(state, shapes, ("model.ae.", "ae.")), shapes, "autoencoder", where)


def pdn_shapes(size: Size = "small", n_outputs: int = N_FEATURES) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a patch description network, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for name, width, kernel, _ in CONVS[check_size(size)]:
        shapes[f"{name}.weight"] = (width or n_outputs, channels, kernel, kernel)
        shapes[f"{name}.bias"] = (width or n_outputs,)
        channels = width or n_outputs
    return shapes


def autoencoder_shapes(n_outputs: int = N_FEATURES) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of an autoencoder, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for half, rows in (("encoder", ENCODER), ("decoder", DECODER)):
        for name, into, out, kernel, *_ in rows:
            shapes[f"{half}.{name}.weight"] = (out or n_outputs, into, kernel, kernel)
            shapes[f"{half}.{name}.bias"] = (out or n_outputs,)
    return shapes


def _in_our_names(
    state: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]], prefixes: tuple[str, ...]
) -> dict[str, NDArray[Any]]:
    """Return the tensors without prefix, and with names for a Sequential's numbers, by their order."""
    for prefix in prefixes:
        inside = {name[len(prefix) :]: array for name, array in state.items() if name.startswith(prefix)}
        if inside:
            state = inside
            break
    numbers = sorted({int(name.partition(".")[0]) for name in state if name.partition(".")[0].isdecimal()})
    ours = list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))
    if not numbers or len(numbers) != len(ours):
        return dict(state)
    names = {str(number): name for number, name in zip(numbers, ours, strict=True)}
    renamed = {}
    for name, array in state.items():
        head, _, tail = name.partition(".")
        renamed[f"{names.get(head, head)}.{tail}"] = array
    return renamed


def _checked(
    state: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]], network: str, where: object
) -> dict[str, NDArray[np.float32]]:
    todo = "Give the weight file of this network, or another size."
    if set(state) != set(shapes):
        missing = [name for name in shapes if name not in state]
        unknown = [name[:60] for name in state if name not in shapes]
        got = f"no {missing[0]} but {', '.join(unknown[:3]) or 'nothing'}" if missing else f"{unknown[0]} too"
        raise ModelFileError(
            message(network, f"tensors {', '.join(list(shapes)[:2])}, ...", got, where=where, todo=todo)
        )
    checked = {}
    for name, shape in shapes.items():
        array = state[name]
        if array.shape != shape or array.dtype.kind != "f":
            got = f"{array.dtype} {array.shape}"
            raise ModelFileError(message(f"{network} {name}", f"float {shape}", got, where=where, todo=todo))
        if not np.isfinite(array).all():
            got = "NaN or infinite values"
            raise ModelFileError(message(f"{network} {name}", "finite weights", got, where=where))
        checked[name] = np.ascontiguousarray(array, dtype=np.float32)
    return checked


def _normalise() -> torch.nn.Module:
    """Return a module that normalises images from 0 to 1 by ImageNet's mean and standard deviation."""
    import torch

    class Normalise(torch.nn.Module):
        """(image - mean) / std, per channel; not in the state dict."""

        mean: torch.Tensor
        std: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
                self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            """Return the normalised image."""
            return (image - self.mean) / self.std

    return Normalise()


def _at_least(x: torch.Tensor, side: int) -> torch.Tensor:
    from torch.nn.functional import interpolate

    height, width = max(side, int(x.shape[2])), max(side, int(x.shape[3]))
    return x if (height, width) == tuple(x.shape[2:]) else interpolate(x, size=(height, width), mode="bilinear")
