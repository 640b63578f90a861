"""Attention, whose weights are held: values are mixed by nonnegative constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.nn.attention import from_heads, module_weights, projection, to_heads
from dmn.rules.base import Rule
from dmn.rules.call import Call
from dmn.rules.local import Local
from dmn.rules.operations import SAME, Operation


class Attention(Local):
    """A module of attention; its weights are held. Only the value has streams."""

    weighted = True
    holds = "the attention weights"
    refusal = "attention multiplies activations: no difference of monotone functions of them"

    def hold(self, call: Call) -> Tensor:
        query, key = (call.argument(name, place) for place, name in enumerate(("query", "key")))
        padding = call.argument("key_padding_mask", 3)
        mask = call.argument("attn_mask", 5)
        return module_weights(_attention(call), query, key, padding, mask)

    def linear(self, call: Call, held: Tensor, *streams: Tensor) -> Tensor:
        return self._mixed(call, held, streams[0], torch.Tensor.detach)

    def bound(self, call: Call, held: Tensor, *sums: Tensor) -> Tensor:
        return self._mixed(call, held, sums[0], torch.abs)

    def sums(
        self, call: Call, u: Sequence[Tensor], out: Tensor, s: Sequence[Tensor], unit: float
    ) -> Tensor:
        _, bias = projection(_attention(call), "v")
        first = None if bias is None else unit * bias.abs()
        last = _attention(call).out_proj.bias
        mixed = self._mixed(call, self.coefficients(call), s[0], torch.abs, first)
        return mixed if last is None else mixed + unit * last.abs()

    def constant(self, call: Call, held: Tensor) -> Tensor | None:
        _, bias = projection(_attention(call), "v")
        output = _attention(call).out_proj
        if bias is None:
            return output.bias
        return F.linear(bias, output.weight, output.bias)  # rows of the weights sum up to 1

    def difference_back(self, call: Call, q: Tensor) -> list[Tensor]:
        return [self._back(call, q, torch.Tensor.detach)]

    def sum_back(self, call: Call, a: Tensor) -> list[Tensor]:
        return [self._back(call, a, torch.abs)]

    def _mixed(
        self,
        call: Call,
        weights: Tensor,
        value: Tensor,
        of_weight: Callable[[Tensor], Tensor],
        bias: Tensor | None = None,
    ) -> Tensor:
        """Project values, mix them, and project the result."""
        weight, _ = projection(_attention(call), "v")
        heads = to_heads(_attention(call), F.linear(value, of_weight(weight), bias))
        mixed = from_heads(_attention(call), weights @ heads)
        return F.linear(mixed, of_weight(_attention(call).out_proj.weight))

    def _back(self, call: Call, signal: Tensor, of_weight: Callable[[Tensor], Tensor]) -> Tensor:
        weight, _ = projection(_attention(call), "v")
        heads = to_heads(_attention(call), signal @ of_weight(_attention(call).out_proj.weight))
        mixed = self.coefficients(call).transpose(-2, -1) @ heads
        return from_heads(_attention(call), mixed) @ of_weight(weight)


def _attention(call: Call) -> nn.MultiheadAttention:
    assert isinstance(call.module, nn.MultiheadAttention), "the rule is for this module only"
    return call.module


def attention(operation: Operation) -> Rule | str:
    """Allow attention without tokens of its own."""
    module = operation.target
    if module.bias_k is not None or module.add_zero_attn:
        return "attention with bias_k, bias_v or add_zero_attn: append such tokens to the input"
    return Attention()


def attention_function(operation: Operation) -> Rule | str:
    """Take queries, keys and masks as constants: weights are nonnegative, and those of values."""
    named = (argument for name, argument in operation.kwargs.items() if name != "value")
    others = (*operation.args[:2], *operation.args[3:], *named)
    return Attention.refusal if any(map(operation.is_stream, others)) else SAME
