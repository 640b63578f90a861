"""The options of a pass over a split network: their defaults and their ranges."""

from __future__ import annotations

from typing import Any, Literal, get_args

from dmn.errors import OptionError
from dmn.nn import BackwardConfig

Products = Literal["held", "refuse"]
DEFAULT_ALPHA: dict[str, Any] = {"gradient": 0.0, "relevance": "auto"}
RANGES = {
    "alpha": (0.0, 0.5),
    "head_alpha": (0.0, 0.5),
    "theta": (0.0, 1.0),
    "threshold": (0.0, float("inf")),
}


def check_products(products: str) -> None:
    """Refuse what is no choice for products of activations."""
    if products not in get_args(Products):
        raise OptionError(f"products is {products!r}, not 'held' or 'refuse'")


def complete(config: BackwardConfig, defaults: BackwardConfig) -> BackwardConfig:
    """Fill in the options of a pass that are None, and check all.

    Args:
        config: Of a pass.
        defaults: The network's own theta, threshold and pool.

    Raises:
        OptionError: names the option, its value and its range.
    """
    alpha = DEFAULT_ALPHA[config.backward] if config.alpha is None else config.alpha
    config = config._replace(
        alpha=alpha,
        theta=defaults.theta if config.theta is None else config.theta,
        threshold=defaults.threshold if config.threshold is None else config.threshold,
        pool=config.pool or defaults.pool,
    )
    values: list[tuple[str, Any]] = [("alpha", each) for each in _shifts(config)]
    values += [(name, getattr(config, name)) for name in ("head_alpha", "theta", "threshold")]
    for name, value in values:
        low, high = RANGES[name]
        if not isinstance(value, (int, float)) or not low <= value <= high:
            raise OptionError(f"{name} is {value!r}, not in [{low}, {high}]")
    if config.pool not in ("winner", "convex"):
        raise OptionError(f"pool is {config.pool!r}, not 'winner' or 'convex'")
    return config


def _shifts(config: BackwardConfig) -> list[Any]:
    """Return all shifts that must be numbers in the range."""
    alpha: Any = config.alpha
    if alpha == {"gradient": "balanced", "relevance": "auto"}[config.backward]:
        return []
    if not isinstance(alpha, tuple):
        return [alpha]
    by_layer = all(isinstance(shift, tuple) for shift in alpha)
    if not by_layer and len(alpha) != 2:
        raise OptionError(
            f"alpha is {alpha}; give one number, a pair for the first and the last layer, or one "
            "number for each name of a layer"
        )
    return [shift for _, shift in alpha] if by_layer else list(alpha)
