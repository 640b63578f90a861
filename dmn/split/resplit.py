"""Explain a network during training by the pair that it is at the moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dmn.explain import Explainer, Target
from dmn.split.front import as_pair
from dmn.split.model import SplitModel


class ResplitExplainer:
    """Split the network at each call, as its weights may have changed, and explain the pair.

    A difference network with a front is read by a new `FrontAdapter` at each call.

    Args:
        net: A network; see `dmn.split.model` for which.
        explainer: Called with the pair, e.g. `dmn.explain.SplitCAM` with its options.

    Raises:
        UnsupportedError: when called; lists every operation without a rule.
        NotEqualError: when first called, if the split network is not the same function.
    """

    def __init__(self, net: nn.Module, explainer: Callable[[Any], Explainer]) -> None:
        self._net, self._explainer = net, explainer
        self._compared = False

    def __repr__(self) -> str:
        return repr(self._explainer(as_pair(self._net)))

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Explain images (B, C, H, W); returns maps (B, 1, H, W), float32."""
        pair = as_pair(self._net, *([] if self._compared else [x]))
        if self._compared and isinstance(pair, SplitModel):
            pair.find_image_layers(x[:1])
        self._compared = True
        return self._explainer(pair)(x, target)
