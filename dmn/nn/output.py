"""Where a pass back through a network starts: which logits, and how much of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from dmn.errors import OptionError, TargetError
from dmn.nn.observed import observed

OutputSelector = Literal["class", "contrast", "all", "clrp", "sglrp"]
"""Where a pass back starts; see `output_relevance`."""
Contrast = bool | Literal["mean", "clrp", "sglrp"]
"""How a method removes what speaks for all classes; see `contrast_outputs`."""

EPSILON = 1e-6
"""The default stabiliser of relevance, as in Zimmermann & Loho 2026."""

Outputs = tuple[OutputSelector, ...]
_GRADIENT: Mapping[Contrast, Outputs] = {
    False: ("class",),
    True: ("contrast",),
    "mean": ("contrast",),
}
_RELEVANCE: Mapping[Contrast, Outputs] = {
    False: ("class",),
    True: ("class", "all"),
    "mean": ("contrast",),
    "clrp": ("clrp",),
    "sglrp": ("sglrp",),
}


def contrast_outputs(contrast: Contrast, method: str, relevance: bool) -> Outputs:
    """Return where the passes of a method start, given its option `contrast`.

    Args:
        contrast: False for the class alone; True for the method's own form; "mean", "clrp" or
            "sglrp" for one pass from that start, see `output_relevance`.
        method: The method's name, for the error message.
        relevance: Whether the method propagates relevance. If so, True takes two passes, from the
            class and from the mean of all logits; and "clrp" and "sglrp" are allowed.

    Raises:
        OptionError: for another value; lists the allowed ones, or says which methods take it.
    """
    known = isinstance(contrast, bool | str) and contrast in _RELEVANCE
    if not known:
        choices = "false, true, mean, clrp or sglrp" if relevance else "false, true or mean"
        raise OptionError(f"contrast of {method} is {contrast!r}; give {choices}")
    outputs = _RELEVANCE if relevance else _GRADIENT
    if contrast not in outputs:
        raise OptionError(
            f"{method} takes no contrast {contrast!r}, a start of relevance; give false, true or "
            "mean, or leave it to SplitLRP, the LRP methods or ExcitationBackprop"
        )
    return outputs[contrast]


def check_target(logits: Tensor, target: Tensor, contrast: bool = False) -> None:
    """Refuse classes that a network does not have.

    Args:
        logits: (B, K); only the shape is used.
        target: Class indices, of any shape.
        contrast: Whether a second class is needed.

    Raises:
        TargetError: for an index out of range, or if a second class is needed and there is none.
    """
    classes = logits.shape[1]
    if contrast and classes == 1:
        raise TargetError("contrast needs two classes, and the network has one logit: leave it out")
    invalid = observed(lambda: target[(target < 0) | (target >= classes)].tolist())
    if invalid:
        available = f"there are 0 to {classes - 1}" if classes > 1 else "its one logit is class 0"
        raise TargetError(f"the network has no class {invalid[0]}; {available}")


def output_relevance(logits: Tensor, target: Tensor, output: OutputSelector) -> Tensor:
    """Return the relevance of each logit, (B, K), that a pass of LRP starts with.

    | output | at the class c | at another class k |
    |---|---|---|
    | "class" | f_c | 0 |
    | "contrast" | (1 - 1 / K) f_c | - f_k / K |
    | "all" | f_c / K | f_k / K |
    | "clrp" | f_c | - f_c / (K - 1) |
    | "sglrp" | y_c (1 - y_c) | - y_c y_k |

    f are the logits and y their softmax. The last two sum to 0. For a class c and its rival r the
    relevance is f_c at c and - f_r at r.

    Args:
        logits: (B, K).
        target: Class indices (B,), or classes and their rivals (B, 2).
        output: The start, as in the table.

    Raises:
        TargetError: for an index out of range, or for a contrast, a mean or a rival of one logit.
        OptionError: for rivals with another start than "class" or "contrast".

    Source: "clrp" is CLRP1 of Gu, Yang & Tresp, Understanding Individual Decisions of CNNs via
        Contrastive Backpropagation, ACCV 2018, with its sign, where they keep the positive part of
        the map; "sglrp" is Iwana, Kuroki & Uchida, Explaining Convolutional Neural Networks using
        Softmax Gradient Layer-wise Relevance Propagation, ICCV Workshops 2019.

    Examples:
        >>> logits = torch.tensor([[4.0, 1.0, 1.0]])
        >>> output_relevance(logits, torch.tensor([0]), "class")
        tensor([[4., 0., 0.]])
        >>> output_relevance(logits, torch.tensor([0]), "clrp")
        tensor([[ 4., -2., -2.]])
    """
    logits = logits.detach()
    if target.dim() == 2:
        return _difference(logits, target, output) * logits
    if output == "clrp":
        weights = _one_hot(logits, target, output)
        others = (1 - weights) / (logits.shape[1] - 1)
        return (weights - others) * logits.gather(1, target[:, None])
    if output == "sglrp":
        weights = _one_hot(logits, target, output)
        shares = logits.softmax(dim=1)
        others = shares * (1 - weights)  # 1 - y_c would be rounded to 0 where y_c is near 1
        start = weights * others.sum(dim=1, keepdim=True) - others
        return start * shares.gather(1, target[:, None])
    return select_output(logits, target, output) * logits


def select_output(logits: Tensor, target: Tensor, output: OutputSelector) -> Tensor:
    """Return where a pass starts: the weight of each logit, (B, K).

    Args:
        logits: (B, K). Only "clrp" and "sglrp" use the values.
        target: Class indices (B,), or classes and their rivals (B, 2): the pass then starts from
            the difference of two logits, which "contrast" does not change.
        output: "class", one logit; "contrast", that logit minus the mean; "all", the mean; "clrp"
            and "sglrp", `output_relevance` divided by the logits, which are stabilised as in
            zennit.

    Raises:
        TargetError: for an index out of range, or for a contrast, a mean or a rival of one logit.
        OptionError: for rivals with another start than "class" or "contrast".

    Examples:
        >>> logits = torch.tensor([[4.0, 1.0, 1.0]])
        >>> select_output(logits, torch.tensor([[0, 2]]), "class")  # why 0, not 2
        tensor([[ 1.,  0., -1.]])
    """
    if target.dim() == 2:
        return _difference(logits, target, output)
    if output in ("clrp", "sglrp"):
        return output_relevance(logits, target, output) / _stabilised(logits.detach())
    one_hot = _one_hot(logits, target, output)
    return {
        "class": one_hot,
        "contrast": one_hot - 1 / logits.shape[1],
        "all": torch.full_like(logits, 1 / logits.shape[1]),
    }[output]


def _one_hot(logits: Tensor, target: Tensor, output: OutputSelector) -> Tensor:
    check_target(logits, target, contrast=output != "class")
    return torch.zeros_like(logits).scatter_(1, target[:, None], 1.0)


def _difference(logits: Tensor, pairs: Tensor, output: OutputSelector) -> Tensor:
    """Return 1 at each class and -1 at its rival, from which a mean of all logits cancels."""
    if output not in ("class", "contrast"):
        given = "True, of relevance," if output == "all" else repr(output)
        raise OptionError(
            f"contrast {given} compares with all classes, and a rival is one class; leave contrast "
            "out"
        )
    check_target(logits, pairs, contrast=True)
    target, rival = pairs.unbind(dim=1)
    return _one_hot(logits, target, "class") - _one_hot(logits, rival, "class")


def _stabilised(z: Tensor) -> Tensor:
    """Add epsilon with the sign of z, or the least number whose inverse z's type can hold."""
    epsilon = max(EPSILON, torch.finfo(z.dtype).tiny)
    return z + epsilon * torch.where(z < 0, -1, 1).to(z)
