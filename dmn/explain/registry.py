"""Every attribution method by one name; a method registers itself in its own file.

`dmn.explain` registers the split methods and the controls, `dmn.baselines` the post-hoc methods.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

from dmn.errors import OptionError, UnknownNameError
from dmn.explain.base import Explainer

Kind = Literal["split", "post-hoc", "control"]
Factory = TypeVar("Factory", bound=Callable[..., Explainer])
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class MethodSpec:
    """One method.

    Attributes:
        name: The name in code, configs, command line and tables.
        factory: Makes the explainer. It takes a pair f = g - h first if the method is a split one,
            any classifier if it is post-hoc, and no network if it is a control; then the options.
        kind: "split" reads a pair, "post-hoc" explains any classifier, "control" does not look at
            the network.
        needs_layer: The method is meant for one layer, which the option `layer` names: for class
            activation maps. `dmn.explain.layers.last_stage` finds the usual one.
        defaults: Options that `dmn explain` sets on a network that was not trained as g - h, where
            the user sets none. The factory has defaults of its own for everything else.
        featured: `dmn explain` shows the method where the user names none.
    """

    name: str
    factory: Callable[..., Explainer]
    kind: Kind
    needs_layer: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    featured: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all that the factory takes."""
        return tuple(inspect.signature(self.factory).parameters)


_registered: dict[str, MethodSpec] = {}  # by name in lower case
METHODS: Mapping[str, MethodSpec] = MappingProxyType(_registered)
"""All methods that are registered, by name in lower case; see `find_method`."""


def register(
    kind: Kind,
    name: str | None = None,
    *,
    needs_layer: bool = False,
    defaults: Mapping[str, Any] | None = None,
    featured: bool = False,
) -> Callable[[Factory], Factory]:
    """Register the class or function below as a method; a decorator.

    Args:
        kind: See `MethodSpec`, like the rest.
        name: By default the name of the class.
        needs_layer: Whether the option `layer` has to be set.
        defaults: Options on networks that were not trained as g - h.
        featured: Whether to show the method where none is named.

    Raises:
        OptionError: if another method has the name, in whatever case.
    """

    def add(factory: Factory) -> Factory:
        spec = MethodSpec(
            name or factory.__name__, factory, kind, needs_layer, dict(defaults or {}), featured
        )
        registered = _registered.setdefault(spec.name.lower(), spec)
        if _origin(registered.factory) != _origin(factory):
            raise OptionError(f"there is a method {registered.name} already; register another name")
        _registered[spec.name.lower()] = spec
        return factory

    return add


def _origin(factory: Callable[..., Explainer]) -> tuple[str, str]:
    """Tell factories apart, but not a class from itself after its module was loaded again."""
    return factory.__module__, factory.__qualname__


def list_methods(*kinds: Kind) -> list[MethodSpec]:
    """List the methods of some kinds, or all: split ones first, controls last."""
    selected = [kind for kind in KINDS if kind in (kinds or KINDS)]
    return [spec for kind in selected for spec in METHODS.values() if spec.kind == kind]


def find_method(name: str, *kinds: Kind) -> MethodSpec:
    """Find a method by its name, in any case.

    Args:
        name: Such as "SplitCAM" or "gradcam++".
        *kinds: Those that will do; all by default.

    Raises:
        UnknownNameError: names the methods that there are.
    """
    spec = METHODS.get(str(name).lower())  # a config may hold a number
    if spec is None or spec.kind not in (kinds or KINDS):
        names = ", ".join(spec.name for spec in list_methods(*kinds)) or "none"
        if "post-hoc" in (kinds or KINDS) and not list_methods("post-hoc"):
            names += "; import dmn.baselines for the post-hoc methods"
        raise UnknownNameError(f"no method {name!r}; there are {names}")
    return spec
