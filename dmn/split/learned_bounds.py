"""Learn the sum stream's weights V >= |W| for an explanation objective; f does not change.

u does not depend on V. So for any V the predictions and their gradient stay equal bit for bit, and
no weight of g or h is negative. V changes only how evidence is distributed over the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.errors import OptionError, UnknownNameError
from dmn.explain.methods import SplitExplainer
from dmn.nn import predict_logits
from dmn.split.model import SplitModel

TINY = 1e-12


class Example(NamedTuple):
    """A batch of images for `learn_bounds`.

    Attributes:
        x: Images (B, C, H, W).
        target: Class indices (B,).
        clue: What the maps are compared with, (B, 1, h, w): masks of 0 and 1 for "mask", the result
            of `patch_logit_drops` for "faithfulness", None for "sparseness".

    Examples:
        >>> from dmn.explain import SplitLRP
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> mask = torch.zeros(2, 1, 8, 8)
        >>> mask[..., 2:6, 2:6] = 1
        >>> batch = Example(torch.rand(2, 1, 8, 8), torch.tensor([0, 2]), clue=mask)
        >>> history = learn_bounds(SplitLRP(split(net), alpha=0.2), [batch], objective="mask")
        >>> history[-1] > history[0]
        True
    """

    x: Tensor
    target: Tensor
    clue: Tensor | None = None


@torch.enable_grad()
@torch.inference_mode(False)
def learn_bounds(
    explainer: SplitExplainer,
    examples: Collection[Example],
    objective: str = "mask",
    *,
    epochs: int = 6,
    learning_rate: float = 0.3,
) -> list[float]:
    """Learn the bounds V >= |W| of a split network, in place, for an objective of its maps.

    The predictions stay the same, bit for bit.

    Args:
        explainer: A method on a `SplitModel`, with all its options.
        examples: Batches, used in the same order in each epoch.
        objective: "mask", "sparseness" or "faithfulness"; it is maximised.
        epochs: Number of passes over the examples.
        learning_rate: Learning rate of Adam on V / |W| - 1, which stays >= 0.

    Returns:
        The mean of the objective in each epoch, each value taken before the step.

    Raises:
        UnknownNameError: for an unknown objective; names those that exist.
        OptionError: if the network is not split, or if the maps do not depend on V, as those of the
            plain gradient (stream "g-h" or alpha 0.5, with the smallest streams).
    """
    if objective not in OBJECTIVES:
        names = ", ".join(OBJECTIVES)
        raise UnknownNameError(f"no objective {objective!r}; there are {names}")
    model = explainer.pair
    if not isinstance(model, SplitModel):
        raise OptionError(f"{type(model).__name__} has no bounds; split a network")
    if not model.bound_slack:
        model.relax_bounds()
    bound_slack, history = model.bound_slack, []
    optimizer = torch.optim.Adam(bound_slack, lr=learning_rate, maximize=True)
    try:
        for slack in bound_slack:
            slack.requires_grad_()
        for _ in range(epochs):
            values = []
            for x, target, clue in examples:
                value = OBJECTIVES[objective](explainer(x, target), clue).mean()
                _differentiate(value, bound_slack)
                optimizer.step()
                with torch.no_grad():
                    for slack in bound_slack:
                        slack.clamp_(min=0)
                values.append(float(value.detach()))
            history.append(sum(values) / len(values))
    finally:
        for slack in bound_slack:
            slack.requires_grad_(False).grad = None
    return history


@torch.no_grad()
def patch_logit_drops(model: nn.Module, x: Tensor, target: Tensor, patch: int = 8) -> Tensor:
    """Return how much the class's logit falls when a patch of the image is set to 0.

    Args:
        model: Any classifier.
        x: Images (B, C, H, W).
        target: Class indices (B,).
        patch: Side of a patch in pixels, a divisor of H and of W.

    Returns:
        One number for each patch, (B, 1, H / patch, W / patch).
    """
    height, width = (side // patch for side in x.shape[-2:])
    masks = 1 - torch.eye(height * width, dtype=x.dtype, device=x.device)
    logits = torch.stack(
        [
            predict_logits(model, x * F.interpolate(mask.view(1, 1, height, width), x.shape[-2:]))
            for mask in masks
        ],
        -1,
    )
    drops = predict_logits(model, x)[..., None] - logits
    selected = torch.take_along_dim(drops, target[:, None, None], 1)
    return selected.view(-1, 1, height, width)


def _differentiate(value: Tensor, bound_slack: list[nn.Parameter]) -> None:
    for slack in bound_slack:
        slack.grad = None
    if value.requires_grad:
        torch.autograd.backward(value, inputs=bound_slack)
    if all(slack.grad is None for slack in bound_slack):
        raise OptionError("these maps do not depend on V; try SplitLRP")


def _share_inside(maps: Tensor, clue: Tensor) -> Tensor:
    """Return the share of positive evidence that lies inside the mask."""
    positive = maps.clamp(min=0)
    return (positive * clue).flatten(1).sum(1) / positive.flatten(1).sum(1).clamp(min=TINY)


def _sparseness(maps: Tensor, clue: Tensor | None) -> Tensor:
    """Return Hoyer's sparseness (2004): 1 if one pixel has everything, 0 if all are equal."""
    flat = maps.flatten(1)
    root = math.sqrt(flat.shape[1])
    ratio = flat.abs().sum(1) / torch.linalg.vector_norm(flat, dim=1).clamp(min=TINY)
    return torch.div(ratio - root, 1 - root)


def _correlation(maps: Tensor, clue: Tensor) -> Tensor:
    """Return the correlation of patches' evidence with their logit drops."""
    evidence = F.adaptive_avg_pool2d(maps, (clue.shape[2], clue.shape[3])).flatten(1)
    centred_evidence, centred_clue = (
        values - values.mean(1, keepdim=True) for values in (evidence, clue.flatten(1))
    )
    return F.cosine_similarity(centred_evidence, centred_clue, eps=TINY)


OBJECTIVES: Mapping[str, Callable[..., Tensor]] = {
    "mask": _share_inside,
    "sparseness": _sparseness,
    "faithfulness": _correlation,
}
