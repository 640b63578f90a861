"""Run one side of a pair forward, and back from chosen logits, keeping what a layer saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from dmn.nn import ACTIVATIONS, Backward, Pair

EPSILON = 1e-6  # the paper's


@contextmanager
def eval_mode(model: nn.Module | Pair) -> Iterator[None]:
    """Hold a model in eval mode, and put each of its modules back afterwards."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def explaining(model: nn.Module) -> Iterator[None]:
    """Hold a model in eval mode with gradients on, whatever holds outside, and restore it.

    Monotonicity, and so every map, is a property of eval mode only.
    """
    with eval_mode(model), torch.inference_mode(False), torch.enable_grad():
        yield


def read_stream(
    network: nn.Module, x: Tensor, target: Tensor, layer: str, backward: Backward = "gradient"
) -> tuple[Tensor, Tensor]:
    """Read a layer's activation and the sensitivity of one logit an image to it.

    Args:
        network: g or h, in eval mode, with gradients enabled.
        x: Images (B, C, H, W).
        target: Class indices (B,).
        layer: Path of a submodule of the network; its output is read.
        backward: "gradient" for autograd's, "relevance" for epsilon-LRP divided by activation.

    Returns:
        Activation and sensitivity, both with the shape of the layer's output.
    """
    kept: list[Tensor] = []
    with ExitStack() as hooks:
        if backward == "relevance":
            for module in network.modules():
                if rule := _rule(module):
                    hooks.enter_context(module.register_forward_hook(rule))
        hooks.enter_context(
            network.get_submodule(layer).register_forward_hook(
                lambda module, args, output: kept.append(output)
            )
        )
        logits = network(x.detach().clone().requires_grad_())
    # Clones, for what comes from inference mode cannot be saved for a backward pass.
    chosen = logits.gather(1, target.clone()[:, None]).sum()
    (sensitivity,) = torch.autograd.grad(chosen, kept)
    return kept[0].detach(), sensitivity


def _with_slope(output: Tensor, through: Tensor, slope: Tensor) -> Tensor:
    """Return the output's value, with `slope` for its derivative by `through`."""
    return output.detach() + (through - through.detach()) * slope


def _stabilise(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Divide relevance by z + epsilon sign(z) rather than by z."""
    z = output.detach()
    return _with_slope(output, output, z.abs() / (z.abs() + EPSILON))


def _secant(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Pass relevance through an activation whole: the secant slope conserves it."""
    z = args[0].detach()
    slope = torch.where(z == 0, torch.zeros_like(z), output.detach() / z)
    return _with_slope(output, args[0], slope)


_RULES: dict[tuple[type[nn.Module], ...], Callable[..., Any]] = {
    (_ConvNd, nn.Linear, _BatchNorm): _stabilise,
    tuple(ACTIVATIONS): _secant,
}


def _rule(module: nn.Module) -> Callable[..., Any] | None:
    return next((rule for kinds, rule in _RULES.items() if isinstance(module, kinds)), None)
