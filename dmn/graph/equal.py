"""Check that a rewritten network is still the same function as its original."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from dmn.errors import DmnError, NotEqualError
from dmn.graph.attention import without_fast_path
from dmn.graph.wrappers import is_compiled
from dmn.nn import eval_mode, frozen, misfits_explained, network_name, pick_logits


def require_equal(
    rewritten: nn.Module, original: nn.Module, x: Tensor, *, exact: bool = False
) -> None:
    """Compare a rewritten network with its original on images, and raise if they differ.

    A trace leaves out what a network does without calling an operation of torch on its input, such
    as a branch on a type or an autocast. Only this comparison finds that.

    Args:
        rewritten: The rewritten network.
        original: The network that it was made from, run in eval mode.
        x: Images (B, C, H, W).
        exact: Require equal bits. Otherwise the difference may be up to the square root of the
            precision of the network's coarsest dtype, relative to the largest logit.

    Raises:
        NotEqualError: if they differ; names the network and the largest difference.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> require_equal(trace(net).network, net, torch.rand(2, 1, 2, 2), exact=True)
    """
    no_autocast = torch.autocast(x.device.type, enabled=False)
    # what a compiler makes of the original is another rounding of the same function
    eager = torch.compiler.set_stance("force_eager") if is_compiled(original) else nullcontext()
    with (  # nor does it matter whether one kernel computes all of attention
        torch.inference_mode(False),
        torch.no_grad(),
        no_autocast,
        eager,
        without_fast_path(),
        eval_mode(original),
        frozen(original),
    ):
        x = x.detach().clone()  # x may come from inference mode
        with misfits_explained(original, x):
            expected = _columns(pick_logits(original(x), network_name(original)))
        try:
            output = _columns(rewritten(x))
        except DmnError:
            raise
        except Exception as error:  # also what a method that does not exist raises
            raise _not_equal(original, f"fails ({str(error).partition(chr(10))[0]})") from error
    signatures = [f"{tuple(logits.shape)} of {logits.dtype}" for logits in (output, expected)]
    if signatures[0] != signatures[1]:
        raise _not_equal(original, f"returns {signatures[0]} in place of {signatures[1]}")
    if torch.equal(output, expected):
        return
    size = float(expected.abs().max())
    gap = float((output - expected).abs().max())
    if exact or not gap <= math.sqrt(_precision(original, expected)) * size:
        raise _not_equal(original, f"differs from it by {gap:.2g}, of logits up to {size:.2g}")


def _columns(logits: Tensor) -> Tensor:
    """Return logits (B,) as (B, 1)."""
    return logits.unsqueeze(1) if logits.dim() == 1 else logits


def _precision(model: nn.Module, logits: Tensor) -> float:
    """Return the precision of the coarsest type of a network's parameters and logits."""
    types = {logits.dtype, *(parameter.dtype for parameter in model.parameters())}
    return max(torch.finfo(dtype).eps for dtype in types if dtype.is_floating_point)


def _not_equal(original: nn.Module, fault: str) -> NotEqualError:
    return NotEqualError(
        f"the rewritten {type(original).__name__} {fault}: the network was changed in the meantime,"
        " or does something that a trace leaves out (a branch on a type, an autocast, a random"
        " number); move it into a module of its own, with a rule by dmn.rules.add_rule"
    )
