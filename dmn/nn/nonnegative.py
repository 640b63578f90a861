"""Which parameters must not be negative, and how they are kept so.

Every weight below a `Monotone` module is constrained: multiplied by nonnegative weights, passed
through monotone activations and added, nondecreasing functions stay nondecreasing. Biases and
batch statistics are free. The table `FLOORS` says which parameter of which module has a floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from dmn.errors import NotMonotoneError
from dmn.nn.layers import MONOTONE_ACTIVATIONS, MONOTONE_OPERATIONS

BATCH_NORM_FLOOR = 1e-3  # at zero a channel would be dead for good
FLOORS: dict[type[nn.Module], float] = {
    _ConvNd: 0.0,
    nn.Linear: 0.0,
    _BatchNorm: BATCH_NORM_FLOOR,
}

Constraint = Literal["projection", "abs", "square", "softplus", "exp", "none"]
"""How weights are kept nonnegative: by projection, as a function of free ones, or not at all."""


class Monotone(nn.Module):
    """A network that is nondecreasing in every input, because no weight below it is negative.

    Derive your own network from it, and call `project` after each step of the optimizer.

    Attributes:
        constraint: How the weights are kept nonnegative. "none" leaves them free, for a network to
            compare with.

    Examples:
        >>> class TinyMonotone(Monotone, nn.Sequential):
        ...     pass
        >>> net = TinyMonotone(nn.Flatten(), nn.Linear(4, 2))
        >>> project(net)
        >>> assert_monotone(net)
        >>> bool((net(torch.ones(1, 1, 2, 2)) >= net(torch.zeros(1, 1, 2, 2))).all())
        True
    """

    constraint: Constraint = "projection"


class Constrained(NamedTuple):
    """One constrained parameter: its name, its module, and its lower bound."""

    name: str
    module: nn.Module
    floor: float

    @property
    def weight(self) -> Tensor:
        """The effective weight, as the network multiplies by it."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return weight

    @property
    def reparametrised(self) -> bool:
        """Whether the weight is computed from a free parameter, so that it needs no projection."""
        return parametrize.is_parametrized(self.module, "weight")


def constrained(model: nn.Module) -> Iterator[Constrained]:
    """Yield the constrained parameters: the weights below each `Monotone` module of a model.

    Args:
        model: Any module; its parts that are not `Monotone` are free.

    Yields:
        The name, the module and the lower bound of each constrained parameter.
    """
    for path, module in _below_monotone(model):
        floor = next((floor for kind, floor in FLOORS.items() if isinstance(module, kind)), None)
        if floor is not None and module.weight is not None:
            yield Constrained(f"{path}.weight".removeprefix("."), module, floor)


@torch.no_grad()
def project(model: nn.Module) -> None:
    """Set each constrained weight to the nearest allowed value, in place.

    Call it after each step of an optimizer. `dmn.train.ProjectNonnegative` does so in Lightning.

    Args:
        model: Any module. Only the weights below its `Monotone` parts are constrained.
            Reparametrised weights are nonnegative anyway.

    Examples:
        >>> class TinyMonotone(Monotone, nn.Sequential):
        ...     pass
        >>> net = TinyMonotone(nn.Flatten(), nn.Linear(4, 2))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> net(torch.rand(8, 1, 2, 2)).square().mean().backward()
        >>> optimizer.step()
        >>> project(net)
        >>> bool((net[1].weight >= 0).all())
        True
    """
    for item in constrained(model):
        if not item.reparametrised:
            item.weight.clamp_(min=item.floor)


def assert_monotone(model: nn.Module) -> None:
    """Check that the constrained parts of a model are monotone in eval mode.

    Args:
        model: A module that is, or contains, `Monotone` networks.

    Raises:
        NotMonotoneError: if there is no `Monotone` part, a parameter is below its lower bound, or a
            module is not known to be monotone; names the parameter or the module.

    Examples:
        >>> assert_monotone(dmn.load("mnist_paired").model)
    """
    parts = dict(_below_monotone(model))
    if not parts:
        raise NotMonotoneError(
            f"{type(model).__name__} has no constrained part; derive the networks to constrain "
            'from dmn.nn.Monotone, with a constraint other than "none".'
        )
    for path, module in parts.items():
        _assert_monotone_leaf(path, module)
    for item in constrained(model):
        minimum = item.weight.detach().min()
        if not minimum >= minimum.new_tensor(item.floor):
            raise NotMonotoneError(
                f"{item.name} has the value {float(minimum):.3g}, below its floor {item.floor:g}; "
                "call dmn.nn.project(model) after each optimizer step."
            )


def constraint_statistics(model: nn.Module) -> dict[str, float]:
    """Return how close the constrained weights of a model are to their lower bounds.

    Args:
        model: Any module; see `constrained`.

    Returns:
        `min_weight`, the smallest distance of a weight from its lower bound, which is negative if
        the constraint is violated; and `zero_fraction`, the share of weights at their lower bound.
        Empty if nothing is constrained.

    Examples:
        >>> constraint_statistics(dmn.load("mnist_paired").model)["min_weight"]
        0.0
    """
    slacks = [(item.weight.detach() - item.floor).flatten() for item in constrained(model)]
    if not slacks:
        return {}
    slack = torch.cat(slacks)
    return {
        "min_weight": float(slack.min()),
        "zero_fraction": float((slack <= 0).float().mean()),
    }


class _Reparametrisation(nn.Module):
    """A nonnegative weight as a function of a free one, with the inverse for its initial value."""

    def __init__(self, forward: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor]):
        super().__init__()
        self._forward, self._inverse = forward, inverse

    def forward(self, parameter: Tensor) -> Tensor:
        return self._forward(parameter)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return self._inverse(weight)


_TINY = 1e-6  # softplus and exp reach zero only at minus infinity


def _square(parameter: Tensor) -> Tensor:
    return parameter.square()


def _inverse_softplus(weight: Tensor) -> Tensor:
    return weight.clamp(min=_TINY).expm1().log()


def _inverse_exp(weight: Tensor) -> Tensor:
    return weight.clamp(min=_TINY).log()


REPARAMETRISATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "abs": (torch.abs, torch.abs),
    "square": (_square, torch.sqrt),
    "softplus": (nn.functional.softplus, _inverse_softplus),
    "exp": (torch.exp, _inverse_exp),
}


def reparametrise(model: nn.Module, constraint: Constraint) -> None:
    """Compute the weights of linear layers from free ones: the alternative to projection.

    The scale of BatchNorm stays projected. Other tools read `module.weight`, and some are silently
    wrong on a reparametrised layer; that is why projection is the default.

    Args:
        model: Contains `Monotone` networks. Their weights, which must be >= 0, keep their values.
        constraint: "abs", "square", "softplus" or "exp".
    """
    functions = REPARAMETRISATIONS[constraint]
    for _, module, _ in list(constrained(model)):
        if not isinstance(module, _BatchNorm):
            parametrize.register_parametrization(module, "weight", _Reparametrisation(*functions))


def _below_monotone(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (path, module) for each module in a constrained part, without parametrisations."""
    inside: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, Monotone) and module.constraint != "none":
            inside.append(path)
        below = any(not root or path == root or path.startswith(f"{root}.") for root in inside)
        if below and "parametrizations" not in path.split("."):
            yield path, module


def _assert_monotone_leaf(path: str, module: nn.Module) -> None:
    """Refuse what may decrease: an unknown leaf, or BatchNorm that uses batch statistics."""
    if isinstance(module, _BatchNorm) and not module.track_running_stats:
        raise NotMonotoneError(f"{path}: BatchNorm without running statistics is not monotone.")
    is_leaf = not any(module.children()) or parametrize.is_parametrized(module)
    known = (*FLOORS, *MONOTONE_ACTIVATIONS, *MONOTONE_OPERATIONS, Monotone)
    if is_leaf and not isinstance(module, known):
        raise NotMonotoneError(
            f"{path}: {type(module).__name__} is not known to be monotone; "
            "if it is, add it to dmn.nn.MONOTONE_OPERATIONS."
        )
