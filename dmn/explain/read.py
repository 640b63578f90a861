"""Read layers of a network: run it forward, and back from chosen logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from dmn.errors import UnknownNameError, UnsupportedError
from dmn.nn import GRADIENT, MONOTONE_ACTIVATIONS, BackwardConfig, eval_mode, select_output


@contextmanager
def eval_mode_with_grad(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode with gradients on, whatever is set outside, and restore it.

    Monotonicity, and so every map, is a property of eval mode only.

    Raises:
        UnsupportedError: if the model's weights were made in inference mode.
    """
    if any(weight.is_inference() for weight in model.parameters()):
        raise UnsupportedError(
            f"{type(model).__name__} was made in inference mode, and cannot be differentiated; "
            "build or load it outside of torch.inference_mode()"
        )
    with eval_mode(model), torch.inference_mode(False), torch.enable_grad():
        yield


def read_layers(
    network: nn.Module,
    x: Tensor,
    target: Tensor,
    layers: Sequence[str],
    config: BackwardConfig = GRADIENT,
    create_graph: bool = False,
    start: Tensor | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Read layers' activations and the sensitivity of the chosen logits to them.

    Args:
        network: Any classifier, such as g or h, in eval mode, with gradients enabled.
        x: Images (B, C, H, W).
        target: Class indices (B,).
        layers: Paths of submodules of the network, whose outputs are read.
        config: Whether to propagate autograd's gradient, or epsilon-LRP's relevance divided by
            activation, and from which output.
        create_graph: Return tensors that can be differentiated by the weights, and by what x was
            computed from, as `torch.autograd.grad` does. The slopes of relevance count as constants
            then.
        start: The weight of each logit, (B, K), if it is not what `select_output` returns for the
            network's own logits.

    Returns:
        For each layer, activation and sensitivity, both with the shape of its output.

    Raises:
        UnknownNameError: for a module that is never called; names it.
    """
    activations: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        if config.backward == "relevance":
            for module in network.modules():
                if rule := _rule(module, config.epsilon):
                    hooks.enter_context(module.register_forward_hook(rule))
        for layer in layers:
            module = network.get_submodule(layer)
            hooks.enter_context(module.register_forward_hook(partial(_record, activations, layer)))
        x = x if create_graph else x.detach()
        logits = network(x.clone().requires_grad_())
    # Clones, for what comes from inference mode cannot be saved for a backward pass.
    if start is None:
        start = select_output(logits.detach(), target.clone(), config.output or "class")
    if not_called := [layer for layer in layers if layer not in activations]:
        raise UnknownNameError(
            f"{', '.join(not_called)}: never called; read one of the layers inside"
        )
    values = [activations[layer] for layer in layers]
    selected = (logits * start).sum()
    sensitivities = torch.autograd.grad(selected, values, create_graph=create_graph)
    values = values if create_graph else [value.detach() for value in values]
    return list(zip(values, sensitivities, strict=True))


def _record(
    activations: dict[str, Tensor],
    layer: str,
    module: nn.Module,
    args: tuple[Tensor, ...],
    out: Tensor,
) -> None:
    activations[layer] = out


def _with_slope(output: Tensor, variable: Tensor, slope: Tensor) -> Tensor:
    """Return the output's value, with `slope` as its derivative by `variable`."""
    return output.detach() + (variable - variable.detach()) * slope


def _stabilise(
    epsilon: float, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    """Divide relevance by z + epsilon sign(z) rather than by z."""
    z = output.detach()
    return _with_slope(output, output, z.abs() / (z.abs() + epsilon))


def _secant(epsilon: float, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Conserve relevance through an activation, by the secant slope."""
    z = args[0].detach()
    slope = torch.where(z == 0, torch.zeros_like(z), output.detach() / z)
    return _with_slope(output, args[0], slope)


_RULES: dict[tuple[type[nn.Module], ...], Callable[..., Any]] = {
    (_ConvNd, nn.Linear, _BatchNorm): _stabilise,
    tuple(MONOTONE_ACTIVATIONS): _secant,
}


def _rule(module: nn.Module, epsilon: float) -> Callable[..., Any] | None:
    rules = (rule for kinds, rule in _RULES.items() if isinstance(module, kinds))
    return next((partial(rule, epsilon) for rule in rules), None)
