"""The mirrored form: an ordinary network written with nonnegative weights, without subtraction.

It has each activation v and its negative -v, from [x, -x] on: a negative weight on v is a positive
one on -v. A layer W becomes [[W+, W-], [W-, W+]]. A convex unit computes relu(z) and a concave one
-relu(z); a maximum becomes a maximum and a minimum. The network maps [x, -x] to [f(x), -f(x)], with
twice the channels and four times the weights. It maps [upper, -lower] to the bounds of f(x) by
interval arithmetic, where lower <= x <= upper. Rounding errors between v and -v grow by |W| at each
layer, so that deep mirrored networks are neither exact nor trainable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import fx, nn

from dmn.canonize.folding import canonize
from dmn.graph.trace import Unsupported, describe, target_of, unsupported
from dmn.models import DifferenceOfMonotone
from dmn.nn import Add, ConvexConcave, MaxMinPool2d, Monotone, Opposed


class _UnfoldedFront(Monotone, nn.Sequential):
    """Modules of nonnegative weights, one after the other."""


@torch.inference_mode(False)
def mirror(model: nn.Module) -> fx.GraphModule:
    """Write an ordinary network f with nonnegative weights, as a map from [x, -x] to [f(x), -f(x)].

    Args:
        model: A network of convolutions without groups, linear layers, BatchNorm, ReLU, pooling and
            addition. It is not changed.

    Returns:
        The mirrored network, in eval mode and without BatchNorm. Its layers keep their names.

    Raises:
        UnsupportedError: if the model cannot be written as a graph, or has operations that cannot
            be mirrored; lists them.

    Source: for [upper, -lower] it is interval bound propagation, Gowal et al. 2018.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> x = torch.rand(1, 1, 2, 2)
        >>> f, minus_f = mirror(net)(torch.cat([x, -x], dim=1)).chunk(2, dim=1)
        >>> torch.allclose(f, net(x)), torch.allclose(minus_f, -net(x))
        (True, True)
    """
    network = canonize(model)
    unknown = [node for node in network.graph.nodes if not _has_mirror(network, node)]
    if unknown:
        needs = "has no mirror image; ReLU, max pooling, and convolutions without groups have"
        refused = (Unsupported(describe(network, node), needs) for node in unknown)
        raise unsupported(refused, f"mirror {type(model).__name__}")
    channels = 0
    for node in network.graph.find_nodes(op="call_module"):
        layer = target_of(network, node)
        if image := _MIRRORS.get(type(layer)):
            network.set_submodule(str(node.target), image(layer, channels))
        channels = getattr(layer, "out_channels", channels)
    return network.eval().requires_grad_(False)


@torch.inference_mode(False)
def unfold_front(model: DifferenceOfMonotone) -> DifferenceOfMonotone:
    """Write a difference network with a front as a monotone one without, by `mirror`.

    Args:
        model: A difference network with a front and inputs "opposed". It is not changed.

    Returns:
        The same function except for rounding, in eval mode. Its g and h begin with the mirrored
        front, take `[x, -x]`, and are monotone in it.

    Raises:
        UnsupportedError: if the front cannot be written as a graph, has operations that cannot be
            mirrored, or if the inputs are not "opposed"; lists them.
    """
    views = [(f"{name}.input", getattr(model, name).input) for name in ("g", "h")]
    if refused_views := [(path, view) for path, view in views if not isinstance(view, Opposed)]:
        needs = 'only inputs "opposed" are made of an image and its negative'
        refused = (
            Unsupported(f"{path} ({type(view).__name__})", needs) for path, view in refused_views
        )
        raise unsupported(refused, f"write out {type(model).__name__}")
    front, margin = mirror(model.front), nn.ZeroPad2d(model.margin)
    g, h = (
        _UnfoldedFront(OrderedDict(front=front, margin=margin, net=deepcopy(side.net)))
        for side in (model.g, model.h)
    )
    return DifferenceOfMonotone(g, h, "opposed", margin=0).eval()


def _has_mirror(network: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node has a mirror image, or is its own."""
    if node.op in ("placeholder", "output"):
        return True
    layer = target_of(network, node)
    if type(layer) in _MIRRORS:
        required = _REQUIRED_OPTIONS.get(type(layer), {})
        return all(getattr(layer, key) == value for key, value in required.items())
    return layer is torch.flatten or type(layer) in _ODD_FUNCTIONS


def _convolution(layer: nn.Conv2d, channels: int) -> nn.Module:
    keys = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    options: dict[str, Any] = {key: getattr(layer, key) for key in keys}
    return _fill(nn.Conv2d(2 * layer.in_channels, 2 * layer.out_channels, **options), layer)


def _linear(layer: nn.Linear, channels: int) -> nn.Module:
    return _fill(nn.Linear(2 * layer.in_features, 2 * layer.out_features), layer)


def _fill(mirrored: nn.Module, layer: Any) -> nn.Module:
    p, n = layer.weight.relu(), (-layer.weight).relu()
    bias = p.new_zeros(len(p)) if layer.bias is None else layer.bias
    weight = torch.cat([torch.cat([p, n], 1), torch.cat([n, p], 1)])
    mirrored.to(p).load_state_dict({"weight": weight, "bias": torch.cat([bias, -bias])})
    return mirrored


def _relu(layer: nn.ReLU, channels: int) -> nn.Module:
    return ConvexConcave()


def _max_pool(layer: Any, channels: int) -> nn.Module:
    """Mirror a max pool after a convolution of `channels` channels."""
    return MaxMinPool2d(2 * channels, layer.kernel_size, layer.stride, layer.padding)


_MIRRORS: dict[type[nn.Module], Callable[[Any, int], nn.Module]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.ReLU: _relu,
    nn.MaxPool2d: _max_pool,
}
_REQUIRED_OPTIONS: dict[type[nn.Module], dict[str, Any]] = {  # no others are mirrored
    nn.Conv2d: {"groups": 1},
    nn.MaxPool2d: {"ceil_mode": False, "dilation": 1, "return_indices": False},
}
_ODD_FUNCTIONS = (  # odd functions, f(-v) = -f(v), which are their own mirror images
    *(Add, nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.ZeroPad2d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)
