"""Bounds of a network's logits over a box of images, and of their differences."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.certify.interval import SPARE, Interval, affine
from dmn.certify.propagate import Term, propagate
from dmn.certify.rules import add, negative
from dmn.errors import DataError
from dmn.nn import check_numbers, check_target, predict_logits


class Bounds(NamedTuple):
    """What the logits of a network can be for images in a box.

    Attributes:
        lower: Lower bounds (B, K), in float64.
        upper: Upper bounds (B, K), in float64.
        exact: Whether every bound is attained, up to rounding, at a corner of the box: each logit
            is monotone in all pixels together. Otherwise the bounds hold, and may be loose.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> x = torch.rand(3, 1, 2, 2)
        >>> lower, upper, exact = bounds(net, x - 0.1, x + 0.1)
        >>> bool(((lower < net(x)) & (net(x) < upper)).all())
        True
    """

    lower: Tensor
    upper: Tensor
    exact: bool

    def margins(self, target: Tensor) -> Tensor:
        """Return upper bounds of each logit minus the target's, from those of single logits.

        Those of `worst_logits` are at least as tight.

        Args:
            target: Class indices (B,).

        Returns:
            (B, K); 0 at the target.
        """
        margins = self.upper - self.lower.gather(1, target[:, None])
        return margins.scatter(1, target[:, None], 0.0)


@torch.no_grad()
def bounds(net: nn.Module, low: Tensor, high: Tensor) -> Bounds:
    """Return bounds of each logit for all images x with low <= x <= high.

    Intervals are sent through the network layer by layer. Where no weight is negative this
    evaluates the network at both ends of the box: of a difference network with inverted inputs,
    whose logits all rise with every pixel, the bounds are the logits at the ends, exactly. With
    inputs "paired", "opposed" or "plain" they are g(low) - h(high) and g(high) - h(low), of the
    views' ends; these hold, and can be loose, as can those of an ordinary network.

    All is computed in float64, and rounded outward by as much as the network's own arithmetic can
    round: what it returns for any image of the box is within the bounds. This holds for sums in any
    order, but not for TF32 or Winograd convolutions, which round more.

    Args:
        net: A network whose operations have rules, in the table `dmn.certify.MODULES`; in eval
            mode, whatever mode it is in.
        low: Lower ends of the box (B, C, H, W).
        high: Upper ends, of the same shape.

    Raises:
        DataError: if an upper end is below the lower one, or the shapes differ.
        UnsupportedError: lists all operations without a rule.

    Source: Gowal et al., On the Effectiveness of Interval Bound Propagation for Training Verifiably
        Robust Models, 2018 (intervals).

    Examples:
        >>> net = dmn.load("mnist_inverted").model
        >>> x = torch.rand(1, 1, 28, 28)
        >>> found = bounds(net, box(x, 0.1).low, box(x, 0.1).high)
        >>> found.exact, torch.allclose(found.upper.float(), net((x + 0.1).clamp(max=1)), rtol=1e-3)
        (True, True)
    """
    terms, eps = _rounded_outward(net, low, high)
    total = _logits(terms[0], eps)
    for term in terms[1:]:
        total = add(None, eps, total, _logits(term, eps))
    return Bounds(total.low, total.high, total.direction is not None)


def worst_logits(
    net: nn.Module, low: Tensor, high: Tensor, target: Tensor, outward: bool = False
) -> Tensor:
    """Return bounds of how far each logit can exceed the target's, for images in a box.

    The difference of two logits is bounded as a whole: it is linear in the features below the last
    layer, each of which takes its worse end by the sign of the difference of the two weights. This
    is never looser than bounds of single logits, and mostly much tighter.

    `cross_entropy(worst_logits(...), target)` bounds the loss of every image in the box, and can be
    differentiated by the weights. Where all other numbers are negative, no image of the box is
    given another class.

    Args:
        net: As for `bounds`.
        low: Lower ends of the box (B, C, H, W).
        high: Upper ends, of the same shape.
        target: Class indices (B,).
        outward: Compute in float64 and round outward, as `bounds` does; otherwise in the dtype of
            the box, without.

    Returns:
        (B, K): for class k an upper bound of f_k - f_target, 0 at the target.

    Raises:
        DataError: if an upper end is below the lower one, or the shapes differ.
        TargetError: for an index out of range, or if the network has a single logit.
        UnsupportedError: lists all operations without a rule.

    Source: Gowal et al., 2018, section 3 ("elision of the last layer").

    Examples:
        >>> net = dmn.load("mnist_inverted").model
        >>> x, target = torch.rand(2, 1, 28, 28), torch.tensor([3, 5])
        >>> worst = worst_logits(net, x - 0.01, x + 0.01, target)
        >>> worst.shape, worst.gather(1, target[:, None]).flatten().tolist()
        (torch.Size([2, 10]), [0.0, 0.0])
    """
    if outward:
        terms, eps = _rounded_outward(net, low, high)
    else:
        _check(low, high)
        terms, eps = propagate(net, low, high), 0.0
    total = torch.stack([_differences(term, target) for term in terms]).sum(0)
    if eps:
        rounding = torch.stack([_rounding(term, eps, len(terms)) for term in terms]).sum(0)
        total = total + rounding + rounding.gather(1, target[:, None])
    return total.scatter(1, target[:, None], 0.0)


@torch.no_grad()
def guaranteed_margin(net: nn.Module, low: Tensor, high: Tensor, target: Tensor) -> Tensor:
    """Return by how much the target's logit exceeds all others, at least, for images in a box.

    Args:
        net: As for `bounds`.
        low: Lower ends of the box (B, C, H, W).
        high: Upper ends, of the same shape.
        target: Class indices (B,).

    Returns:
        (B,), in float64; the class is certain where it is positive.

    Examples:
        >>> net = dmn.load("mnist_inverted").model
        >>> x = torch.rand(2, 1, 28, 28)
        >>> target = net(x).argmax(1)
        >>> (guaranteed_margin(net, x, x, target) > 0).tolist()
        [True, True]
    """
    worst = worst_logits(net, low, high, target, outward=True)
    return -worst.scatter(1, target[:, None], -torch.inf).amax(dim=1)


@torch.no_grad()
def certain(net: nn.Module, low: Tensor, high: Tensor, target: Tensor | None = None) -> Tensor:
    """Return for which images the class is certain: no image of the box is given another one.

    Args:
        net: As for `bounds`.
        low: Lower ends of the box (B, C, H, W).
        high: Upper ends, of the same shape.
        target: Class indices (B,); by default the classes that are predicted in the box's middle.

    Returns:
        Booleans (B,). True is a proof, of the network as it computes; False is none of the
        opposite, unless the bounds are exact.

    Examples:
        >>> net = dmn.load("mnist_inverted").model
        >>> x = torch.rand(2, 1, 28, 28)
        >>> certain(net, x, x).tolist()  # a box that is a point
        [True, True]
    """
    if target is None:
        target = predict_logits(net, (low + high) / 2).argmax(dim=1)
    return guaranteed_margin(net, low, high, target) > 0


def _check(low: Tensor, high: Tensor) -> None:
    check_numbers(low)
    check_numbers(high)
    if low.shape != high.shape:
        raise DataError(f"the box's ends have shapes {tuple(low.shape)} and {tuple(high.shape)}")
    if not bool((low <= high).all()):
        raise DataError("the box is empty: an upper end is below the lower one, or not a number")


def _rounded_outward(net: nn.Module, low: Tensor, high: Tensor) -> tuple[list[Term], float]:
    """Return the terms of the logits in float64, and the epsilon that they were rounded by."""
    _check(low, high)
    kinds = {low.dtype, *(p.dtype for p in net.parameters() if p.is_floating_point())}
    eps = max(torch.finfo(kind).eps for kind in kinds)
    with torch.no_grad():
        return propagate(net, low.double(), high.double(), eps), eps


def _logits(term: Term, eps: float) -> Interval:
    """Return what a term adds to the logits."""
    out = term.features
    if term.weight is not None:
        out = affine(out, F.linear, term.weight, term.bias, term.weight.shape[1], eps)
    return out if term.sign > 0 else negative(None, eps, out)


def _differences(term: Term, target: Tensor) -> Tensor:
    """Return the largest differences to the target that a term can add."""
    low, high, _ = term.features
    if term.weight is None:
        check_target(low, target)
        ends = (high, low) if term.sign > 0 else (-low, -high)
        return ends[0] - ends[1].gather(1, target[:, None])
    check_target(term.weight[None, :, 0], target)
    weight = term.sign * (term.weight - term.weight[target][:, None])  # (B, K, F)
    middle = torch.einsum("bkf,bf->bk", weight, (high + low) / 2)
    spread = torch.einsum("bkf,bf->bk", weight.abs(), (high - low) / 2)
    if term.bias is not None:
        middle = middle + term.sign * (term.bias - term.bias[target][:, None])
    return middle + spread


def _rounding(term: Term, eps: float, terms: int) -> Tensor:
    """Return by how much the network can round each logit where it computes a term."""
    size = term.features.magnitude
    if term.weight is None:
        return 2 * terms * eps * size
    size = F.linear(size, term.weight.abs(), None if term.bias is None else term.bias.abs())
    return (term.weight.shape[1] + SPARE + 2 * terms) * eps * size
