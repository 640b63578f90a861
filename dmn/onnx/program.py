"""Logits and maps as one program of forward operations, by `torch.export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    GuardOnDataDependentSymNode,
    ShapeEnv,
    StatelessSymbolicContext,
)

from dmn.errors import UnsupportedError
from dmn.explain import SplitExplainer
from dmn.nn import Stream, eval_mode, predict_logits
from dmn.nn.observed import recording, replaying
from dmn.onnx.transposes import decompositions

BATCH = 3  # of the trace; a batch of 1 or 2 would be taken for a constant
Normalise = Callable[[Tensor], Tensor]


def explanation(
    explainer: SplitExplainer,
    streams: Sequence[Stream],
    normalise: Normalise | None = None,
) -> Callable[..., tuple[Tensor, ...]]:
    """Return a function from images, and classes if any, to logits and maps.

    It computes what the explainer does, without checks of the values of its arguments.

    Args:
        explainer: Of a pair.
        streams: The maps to return, in this order.
        normalise: From images in [0, 1] to what the network takes; None if images are given so.
    """

    def explain(image: Tensor, target: Tensor | None = None) -> tuple[Tensor, ...]:
        x = image if normalise is None else normalise(image)
        logits = predict_logits(explainer.pair, x)
        chosen = logits.argmax(dim=1) if target is None else target
        readings = {
            config: explainer.pair.read(x, chosen, [explainer.layer], config, streams)
            for config in explainer.passes
        }
        maps = (explainer.map(lambda _, config: readings[config], each, x) for each in streams)
        return logits, *maps

    return explain


def export_program(
    explainer: SplitExplainer,
    x: Tensor,
    streams: Sequence[Stream] | None = None,
    *,
    target: bool = False,
    normalise: Normalise | None = None,
) -> ExportedProgram:
    """Write an explainer as a program for `torch.export`, `torch.compile` or ONNX.

    The backward pass becomes explicit operations, so that the program needs no autograd. It takes
    any number of images. Units of a power of two, in which deep split networks compute, are those
    of the example; images that are a billion times as large may overflow.

    Args:
        explainer: SplitCAM, SplitGrad or SplitLRP of a pair, or one of your own that derives from
            `SplitExplainer`.
        x: Images (B, C, H, W) of the size that the program will take, float32.
        streams: The maps to return; by default the explainer's own stream.
        target: Whether class indices (B,), int64, are a second input; otherwise the predicted
            class is explained.
        normalise: From images in [0, 1] to what the network takes; None if images are given so.

    Returns:
        The program. Its module returns logits (B, K) and a map (B, 1, H, W) for each stream.

    Raises:
        UnsupportedError: if the explainer is of another kind, or decides by values of tensors how
            to compute; says where.

    Examples:
        >>> from dmn.explain import SplitGrad
        >>> net = dmn.load("mnist_paired").model
        >>> x = torch.rand(2, 1, 28, 28)
        >>> explainer = SplitGrad(net, stream="g")
        >>> logits, maps = export_program(explainer, x).module()(x)
        >>> torch.allclose(maps, explainer(x), rtol=1e-3)
        True
    """
    if not isinstance(explainer, SplitExplainer):
        raise UnsupportedError(
            f"{type(explainer).__name__} cannot be exported; SplitCAM, SplitGrad and SplitLRP can"
        )
    function = explanation(explainer, streams or (explainer.stream,), normalise)
    x = x.detach()[:1].repeat(BATCH, *[1] * (x.dim() - 1))
    inputs = (x, torch.zeros(BATCH, dtype=torch.long, device=x.device))[: 1 + target]
    with torch.no_grad(), eval_mode(explainer.pair):
        with recording() as answers:
            function(*inputs)
        with replaying(answers):
            graph = _trace(function if target else lambda image: function(image), inputs)
        shapes = tuple({0: Dim.DYNAMIC} for _ in inputs)
        return torch.export.export(graph, inputs, dynamic_shapes=shapes)


def _trace(function: Callable[..., Any], inputs: Sequence[Tensor]) -> torch.fx.GraphModule:
    """Write a function as a graph of operations, for any batch of images of one size."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = [
        mode.from_tensor(
            each,
            symbolic_context=StatelessSymbolicContext(
                dynamic_sizes=[DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (each.dim() - 1)]
            ),
        )
        for each in inputs
    ]
    traced = make_fx(
        function,
        decomposition_table=decompositions(),
        tracing_mode="symbolic",
        _allow_non_fake_inputs=True,
    )
    try:
        return traced(*fakes)
    except GuardOnDataDependentSymNode as error:
        raise UnsupportedError(
            "cannot be exported, as values of tensors decide what is computed: "
            f"{str(error).partition('(')[0].strip()}"
        ) from error
