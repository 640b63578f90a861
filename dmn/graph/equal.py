"""Whether a rewritten network is still the function that it was made from."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dmn.errors import NotEqualError
from dmn.nn import eval_mode


def require_equal(made: nn.Module, original: nn.Module, x: Tensor, *, exact: bool = False) -> None:
    """Compare a rewritten network with its original on images, and refuse it if it differs.

    Tracing leaves out what a network does without calling an operation of torch on its input, such
    as a branch on a type or an autocast. Nothing else would notice.

    Args:
        made: The rewritten network.
        original: What it was made from, asked in eval mode.
        x: Images (B, C, H, W).
        exact: Ask for the same bits. Otherwise rounding is allowed: the square root of the dtype's
            precision, relative to the largest logit.

    Raises:
        NotEqualError: names the network and the largest difference.
    """
    plain = torch.autocast(x.device.type, enabled=False)
    with torch.inference_mode(False), torch.no_grad(), plain, eval_mode(original):
        x = x.detach().clone()  # outside inference mode, whatever mode it was made in
        expected = original(x)
        try:
            given = made(x)
        except RuntimeError as error:
            raise _not_equal(original, f"fails ({str(error).partition(chr(10))[0]})") from error
    kinds = [f"{tuple(each.shape)} of {each.dtype}" for each in (given, expected)]
    if kinds[0] != kinds[1]:
        raise _not_equal(original, f"returns {kinds[0]} in place of {kinds[1]}")
    if torch.equal(given, expected):
        return
    size = float(expected.abs().max())
    gap = float((given - expected).abs().max())
    if exact or not gap <= math.sqrt(torch.finfo(expected.dtype).eps) * size:
        raise _not_equal(original, f"differs from it by {gap:.2g}, of logits up to {size:.2g}")


def _not_equal(original: nn.Module, fault: str) -> NotEqualError:
    return NotEqualError(
        f"the rewritten {type(original).__name__} {fault}: the network was changed in the meantime,"
        " or does something that a trace leaves out (a branch on a type, an autocast, a random"
        " number); move it into a module of its own, with a rule by dmn.rules.add_rule"
    )
