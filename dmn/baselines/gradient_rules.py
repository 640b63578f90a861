"""Rules of LRP as gradients: the relevance of a tensor is the tensor times its gradient.

Each rule returns the value that it is given, and replaces how gradients go back through it. Held
means that a coefficient counts as a constant: no gradient goes through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, other: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def with_gradient(value: Tensor, other: Tensor) -> Tensor:
    """Return a value, to the bit, with the gradient of another tensor of its shape."""
    result: Tensor = _WithGradient.apply(value, other)
    return result


def uniform_rule(x: Tensor, operands: int) -> Tensor:
    """Return a product, or an operand, so that each operand gets the same share of relevance.

    Args:
        x: The product of activations, or one of them.
        operands: How many activations are multiplied.

    Source: Achtibat et al. 2024, eq. 15, for matrix products.
    """
    return with_gradient(x, x / operands)


def identity_rule(y: Tensor, x: Tensor, at_zero: Tensor | None = None) -> Tensor:
    """Return what an elementwise function returns, all of whose relevance goes to its input.

    Args:
        y: The function's values.
        x: Its inputs.
        at_zero: Its value at 0, which counts as a bias; None for 0.

    Source: Achtibat et al. 2024, eq. 9.
    """
    with torch.no_grad():
        change = y if at_zero is None else y - at_zero
        slope = torch.where(x == 0, 0, change / torch.where(x == 0, 1, x))
    return with_gradient(y, x * slope)


def layer_norm_rule(
    y: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return what `torch.nn.functional.layer_norm` returns, with the standard deviation held.

    Args:
        y: Its output.
        input: Its input; the other arguments are its own, too.
        normalized_shape: The last sizes of the input, over which it normalises.
        weight: Of these sizes, or None.
        bias: Has no effect on gradients.
        eps: What it adds to the variance.

    Source: Achtibat et al. 2024, eq. 16.
    """
    axes = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(axes, keepdim=True)
    normalised = centred / (centred.square().mean(axes, keepdim=True) + eps).sqrt().detach()
    return with_gradient(y, normalised if weight is None else normalised * weight)


def rms_norm_rule(
    y: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Return what `torch.nn.functional.rms_norm` returns, with the root mean square held.

    See `layer_norm_rule` for the arguments.
    """
    axes = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    normalised = input / (input.square().mean(axes, keepdim=True) + eps).sqrt().detach()
    return with_gradient(y, normalised if weight is None else normalised * weight)


def group_norm_rule(
    y: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return what `torch.nn.functional.group_norm` returns, with the standard deviations held.

    See `layer_norm_rule` for the arguments; the weight is (C,), of an input (B, C, ...).
    """
    groups = input.reshape(len(input), num_groups, -1)
    normalised = layer_norm_rule(groups, groups, groups.shape[-1:], eps=eps).view_as(input)
    if weight is not None:
        normalised = normalised * weight.view(-1, *[1] * (input.dim() - 2))
    return with_gradient(y, normalised)


def normalize_rule(
    y: Tensor,
    input: Tensor,
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
    out: None = None,
) -> Tensor:
    """Return what `torch.nn.functional.normalize` returns, with the norms held."""
    return with_gradient(y, input / input.norm(p, dim, keepdim=True).clamp(min=eps).detach())


class GammaRule(nn.Module):
    """A linear operation by the gamma rule, which favours contributions of the output's sign.

    Args:
        operation: A linear layer, a convolution, or a function of input, weight and bias.
        gamma: The strength, >= 0.

    Source: Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019; for inputs of both
        signs Andéol et al., Learning Domain Invariant Representations by Joint Wasserstein Distance
        Minimization, 2021, as in zennit.
    """

    def __init__(self, operation: nn.Module | Callable[..., Tensor], gamma: float) -> None:
        super().__init__()
        self.operation, self.gamma = operation, gamma

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *options: Any,
        **keywords: Any,
    ) -> Tensor:
        """Return the operation's output. A module has its own weight and bias."""
        operation: Any = self.operation  # any layer, with a weight and a bias
        if isinstance(operation, nn.Module):
            own: Any = operation
            weight, bias = own.weight, own.bias

        def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if not isinstance(operation, nn.Module):
                result: Tensor = operation(x, weight, bias, *options, **keywords)
                return result
            given = {"weight": weight} | ({} if bias is None else {"bias": bias})
            output: Tensor = functional_call(operation, given, (x,))
            return output

        assert weight is not None, "linear operations have weights"
        output = apply(x, weight, bias)
        above, below = (None, None) if bias is None else (bias.clamp(min=0), 0 * bias)
        positive = apply(x.clamp(min=0), weight.clamp(min=0), above)
        positive = positive + apply(x.clamp(max=0), weight.clamp(max=0), below)
        favoured = output + self.gamma * torch.where(output > 0, positive, output - positive)
        with torch.no_grad():
            ratio = torch.where(favoured == 0, 0, output / torch.where(favoured == 0, 1, favoured))
        return with_gradient(output.detach(), favoured * ratio)
