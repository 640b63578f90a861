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
    """What is known about a method: its name, how to make it, and what it needs.

    Attributes:
        name: The name in code, configs, on the command line and in tables.
        factory: Makes the explainer. Its first argument is a pair f = g - h for "split" methods and
            any classifier for "post-hoc" methods; controls take no network. Options follow.
        kind: "split" reads a pair, "post-hoc" explains any classifier, "control" does not look at
            the network.
        needs_layer: Whether the option `layer` has to name a layer, as for class activation maps.
            `dmn.explain.layers.last_stage` finds the usual one.
        needs_attention: Whether the network has to have attention over all tokens, as that of a
            vision transformer. The method refuses other networks.
        defaults: Options that `dmn explain` sets on networks that were not trained as g - h, unless
            the user sets them.
        featured: Whether `dmn explain` shows the method if the user names none.

    Examples:
        >>> spec = find_method("SplitCAM")
        >>> spec.kind, spec.needs_layer, spec.options[:3]
        ('split', True, ('pair', 'layer', 'stream'))
    """

    name: str
    factory: Callable[..., Explainer]
    kind: Kind
    needs_layer: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    featured: bool = False
    needs_attention: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all that the factory takes."""
        return tuple(inspect.signature(self.factory).parameters)


_registered: dict[str, MethodSpec] = {}  # by name in lower case
METHODS: Mapping[str, MethodSpec] = MappingProxyType(_registered)
"""All registered methods, by name in lower case; see `find_method`."""


def register(
    kind: Kind,
    name: str | None = None,
    *,
    needs_layer: bool = False,
    defaults: Mapping[str, Any] | None = None,
    featured: bool = False,
    needs_attention: bool = False,
) -> Callable[[Factory], Factory]:
    """Register a class or function as a method; used as a decorator.

    Args:
        kind: "split", "post-hoc" or "control"; see `MethodSpec`.
        name: By default the name of the class.
        needs_layer: Whether the option `layer` has to be set.
        defaults: Options for networks that were not trained as g - h.
        featured: Whether `dmn explain` shows the method if the user names none.
        needs_attention: Whether the network has to have attention over all tokens.

    Raises:
        OptionError: if another method has this name, in upper or lower case.

    Examples:
        >>> @register("control", "Zero")
        ... def zero():
        ...     return lambda x, target=None: x.new_zeros(len(x), 1, *x.shape[2:])
        >>> find_method("zero").factory()(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    def add(factory: Factory) -> Factory:
        spec = MethodSpec(
            name or factory.__name__,
            factory,
            kind,
            needs_layer=needs_layer,
            defaults=dict(defaults or {}),
            featured=featured,
            needs_attention=needs_attention,
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
    """List the methods of some kinds, or of all: "split" first, "control" last.

    Examples:
        >>> [spec.name for spec in list_methods("split")]
        ['SplitCAM', 'SplitGrad', 'SplitLRP']
    """
    selected = [kind for kind in KINDS if kind in (kinds or KINDS)]
    return [spec for kind in selected for spec in METHODS.values() if spec.kind == kind]


def find_method(name: str, *kinds: Kind) -> MethodSpec:
    """Find a method by its name, in upper or lower case.

    Args:
        name: Such as "SplitCAM" or "gradcam++".
        *kinds: The kinds to search; all by default.

    Raises:
        UnknownNameError: if there is no such method; names those that exist.

    Examples:
        >>> find_method("splitlrp").factory.__name__
        'SplitLRP'
    """
    spec = METHODS.get(str(name).lower())  # a config may hold a number
    if spec is None or spec.kind not in (kinds or KINDS):
        names = ", ".join(spec.name for spec in list_methods(*kinds)) or "none"
        if "post-hoc" in (kinds or KINDS) and not list_methods("post-hoc"):
            names += "; import dmn.baselines for the post-hoc methods"
        raise UnknownNameError(f"no method {name!r}; there are {names}")
    return spec
