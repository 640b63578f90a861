"""The base class of other libraries' methods: one call, whatever the library's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.errors import NeedsExampleError
from dmn.explain import Target, resolve_target
from dmn.explain.read import eval_mode_with_grad
from dmn.explain.target import class_names
from dmn.graph.arguments import find_image_argument
from dmn.graph.equal import require_equal
from dmn.nn import (
    Contrast,
    check_images,
    check_rank,
    check_target,
    contrast_outputs,
    predict_logits,
)


def contrast_maps(maps: Sequence[Tensor]) -> Tensor:
    """Return the only map of relevance, or the difference of two, divided by their L1 norms.

    Args:
        maps: (B, 1, H, W) each; one for each start of `dmn.nn.contrast_outputs`.
    """
    if len(maps) == 1:
        return maps[0]
    target_map, mean_map = (
        F.normalize(relevance.flatten(1), p=1).view_as(relevance) for relevance in maps
    )
    return target_map - mean_map


class Logits(nn.Module):
    """The explained function: the logits, each logit minus the mean of all, or differences of two.

    Args:
        model: Returns logits in a form of `dmn.nn.pick_logits`.
        contrast: Subtract the mean.

    Attributes:
        targets: The explained classes, on the CPU, or pairs of a class and its rival, (P, 2), of
            whose logits the difference is explained. Classes that the network does not have are
            refused.
    """

    def __init__(self, model: nn.Module, contrast: bool) -> None:
        super().__init__()
        self.model, self.contrast = model, contrast
        self.targets = torch.empty(0, dtype=torch.long)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K), or differences of two (B, P)."""
        logits = predict_logits(self.model, x)
        against = self.targets.dim() == 2
        check_target(logits, self.targets, self.contrast or against)
        if against:
            target, rival = self.targets.to(logits.device).unbind(dim=1)
            return logits[:, target] - logits[:, rival]
        return logits - logits.mean(dim=1, keepdim=True) if self.contrast else logits


@dataclass(eq=False, repr=False)
class Baseline:
    """Base class of the methods that explain any classifier; subclasses define `attribute`.

    Args:
        model: Takes images (B, C, H, W) and returns logits (B, K).
        contrast: Explain the logit minus the mean of all logits, which removes what speaks for all
            classes. "mean" is the same. Methods that propagate relevance have other forms; see
            `LRP`.
        absolute: Return magnitudes.

    Raises:
        OptionError: for a contrast that the method does not take.
        TargetError: when called for a class that does not exist, or for contrast with one class.

    Examples:
        >>> class GradientSquared(Baseline):
        ...     def attribute(self, x, target):
        ...         self.scores(x).gather(1, target[:, None]).sum().backward(inputs=[x])
        ...         return x.grad.square()
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> GradientSquared(net)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    model: nn.Module = field(repr=False)
    _: KW_ONLY
    contrast: Contrast = False
    absolute: bool = False

    propagates_relevance: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.outputs = contrast_outputs(
            self.contrast, type(self).__name__, self.propagates_relevance
        )
        find_image_argument(self.model)
        self.network: nn.Module = self.model
        self.scores = Logits(self.model, bool(self.contrast))
        self.ready = self.compared = False
        with suppress(NeedsExampleError):  # the first images to be explained will do
            self._begin()

    def __repr__(self) -> str:
        options = [(option.name, getattr(self, option.name), option) for option in fields(self)]
        changed = [
            f"{name}={value!r}"
            for name, value, option in options
            if option.repr and value != option.default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Explain images (B, C, H, W) by maps (B, 1, H, W), float32.

        Positive values speak for the target; see `dmn.explain.Explainer`.
        """
        check_images(x)
        check_rank(self.model, x)
        if not self.ready:
            self._begin(x)
        if not self.compared:
            require_equal(self.network, self.model, x)
            self.compared = True
        with eval_mode_with_grad(self.network):
            images = x.detach().clone().requires_grad_()
            names = class_names(self.model)  # a rewritten network has none
            targets = resolve_target(self.network, images, target, names).clone()
            if targets.dim() == 2 and not self.propagates_relevance:
                # a column for each pair, as methods run copies of the images in their own order
                pairs, targets = torch.unique(targets, dim=0, return_inverse=True)
                self.scores.targets = pairs.cpu()
            else:
                self.scores.targets = targets.cpu()
            maps = self.attribute(images, targets).detach().sum(dim=1, keepdim=True)
        return (maps.abs() if self.absolute else maps).float()

    def _begin(self, example: Tensor | None = None) -> None:
        self.network = self.scores.model = self.prepare(example)
        self.compared = self.network is self.model
        self.ready = True

    def prepare(self, example: Tensor | None = None) -> nn.Module:
        """Return the network to run: the model itself, or what a method makes of it.

        Args:
            example: Images (B, C, H, W), for a network whose forward depends on their shape.
        """
        return self.model

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Attribute the score of one class per image to the image.

        Args:
            x: Images (B, C, H, W) that require gradients; the network is in eval mode.
            target: Columns of `self.scores` (B,), which are class indices unless there are rivals.
                Methods that propagate relevance get classes and rivals (B, 2) then.

        Returns:
            (B, any, H, W); the sum over channels is the map.
        """
        raise NotImplementedError
