"""The mirrored form: an ordinary network written with nonnegative weights, without subtraction.

Beside each activation a, from [x, 1 - x] on, the mirrored network holds its negative -a: a negative
weight on a is then a positive one on -a. A layer W becomes [[W+, W-], [W-, W+]], relu(z) is held by
a convex unit and -relu(z) by a concave one, a maximum by a maximum and a minimum. Of a paired input
it computes what the ordinary network does, to rounding: nothing grows with depth, so that each
weight can be trained on by itself. It costs twice the channels, four times the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from dmn.errors import DmnError
from dmn.nn.layers import MaxMinPool2d
from dmn.nn.nonnegative import FLOORS, Monotone

_LINEAR = (_ConvNd, nn.Linear)
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_INSTEAD: dict[type[nn.Module], str] = {
    nn.ReLU: "activation: convex_concave",
    nn.Hardtanh: "activation: convex_concave",
    nn.MaxPool2d: "pool: max_min",
}


class NotMirrorableError(DmnError, ValueError):
    """A network that cannot hold a mirrored one, or weights that cannot be mirrored; says why."""


def mirrored(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Write the weights of an ordinary network for a monotone one of twice the channels.

    Args:
        state: Of a network of the layers of `net`, with half of its channels, weights of any sign,
            ReLU and max pooling; it sees the image alone, padded by zeros.
        net: Holds `Monotone` networks that see a paired input, of units half convex, half concave,
            and `MaxMinPool2d`; it is not changed.

    Returns:
        A state dict for `net`, with which it computes what the ordinary network does in eval mode.

    Raises:
        NotMirrorableError: names the layer that stands in the way, or the keys that lack.
    """
    written: dict[str, Tensor] = {}
    for path, part in net.named_modules():
        if isinstance(part, Monotone):
            _require_units(path, part)
            for place in _places(path, part):
                written |= _mirror(state, *place)
    return written


def _require_units(path: str, part: nn.Module) -> None:
    inside = {module.pool for module in part.modules() if isinstance(module, MaxMinPool2d)}
    for name, module in part.named_modules():
        if module not in inside and (instead := _INSTEAD.get(type(module))):
            raise NotMirrorableError(
                f"{path}.{name} is a {type(module).__name__}, which has no mirror image: the "
                f"network that is to hold one needs `{instead}`"
            )


def _places(path: str, part: nn.Module) -> Iterator[tuple[str, str | None, bool]]:
    """Walk the linear layers: their names, those of their batch norms, whether they come first."""
    layers = [
        (f"{path}.{name}", module)
        for name, module in part.named_modules()
        if isinstance(module, (*_LINEAR, _BatchNorm))
    ]
    names = [*layers[1:], ("", None)]
    for index, ((name, module), (after, norm)) in enumerate(zip(layers, names, strict=True)):
        if isinstance(module, _LINEAR):
            yield name, after if isinstance(norm, _BatchNorm) else None, index == 0


def _mirror(
    state: Mapping[str, Tensor], name: str, norm: str | None, first: bool
) -> dict[str, Tensor]:
    """Write a layer and its batch norm, if it has one; if not, it is the head."""
    needed = [f"{name}.weight", *([f"{norm}.{key}" for key in _NORM] if norm else [f"{name}.bias"])]
    if lacking := [key for key in needed if key not in state]:
        raise NotMirrorableError(f"no {', '.join(lacking)} among the weights to be mirrored")
    weight = state[needed[0]]
    if norm is None:
        both = torch.cat([weight.relu(), (-weight).relu()], 1)
        return {needed[0]: both, needed[1]: state[needed[1]]}
    scale, shift, mean, variance, count = (state[key] for key in needed[1:])
    size = scale.abs().clamp(min=FLOORS[_BatchNorm])
    signed = scale / size  # a scale may not be negative: its sign goes into the weights
    weight = weight * signed.view(-1, *[1] * (weight.dim() - 1))
    p, n = weight.relu(), (-weight).relu()
    mean = torch.cat([mean * signed, -mean * signed])
    if first:  # it sees 1 - x, not -x
        mean = mean + torch.cat([n, p]).flatten(1).sum(1)
    whole = torch.cat([torch.cat([p, n], 1), torch.cat([n, p], 1)])
    values = (whole, size.repeat(2), torch.cat([shift, -shift]), mean, variance.repeat(2), count)
    return dict(zip(needed, values, strict=True))
