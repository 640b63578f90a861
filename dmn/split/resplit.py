"""Explain a network during training by the pair that it is at the moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dmn.explain import Explainer, Target
from dmn.split.front import as_pair
from dmn.split.model import SplitModel


class ResplitExplainer:
    """Explain a network in training: split it anew at each call, and explain the pair.

    A difference network with a front is read by a new `FrontAdapter` at each call.

    Args:
        net: A network that `as_pair` takes.
        explainer: Makes the explainer from the pair, such as `dmn.explain.SplitCAM` or a
            `functools.partial` with its options.

    Raises:
        UnsupportedError: when called, if the network cannot be split; lists the operations without
            a rule.
        NotEqualError: when first called, if the split network is not the same function.

    Examples:
        >>> from dmn.explain import SplitLRP
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> explainer, x = ResplitExplainer(net, SplitLRP), torch.rand(2, 1, 8, 8)
        >>> before = explainer(x)
        >>> _ = nn.init.normal_(net[3].weight)
        >>> torch.equal(explainer(x), before)
        False
    """

    def __init__(self, net: nn.Module, explainer: Callable[[Any], Explainer]) -> None:
        self._net, self._explainer = net, explainer
        self._compared = False

    def __repr__(self) -> str:
        return repr(self._explainer(as_pair(self._net)))

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Explain images (B, C, H, W) by maps (B, 1, H, W), float32."""
        pair = as_pair(self._net, *([] if self._compared else [x]))
        if self._compared and isinstance(pair, SplitModel):
            pair.find_image_layers(x[:1])
        self._compared = True
        return self._explainer(pair)(x, target)
