"""Layers, constraints and starts of monotone networks."""

from dmn.nn.init import STARTS, Start
from dmn.nn.layers import (
    ACTIVATIONS,
    MONOTONE_OPERATIONS,
    ConvexConcave,
    Inverted,
    Paired,
    Plain,
    View,
)
from dmn.nn.nonnegative import (
    Constraint,
    Monotone,
    NotMonotoneError,
    assert_monotone,
    constrained,
    constraint_statistics,
    project,
    reparametrise,
)
from dmn.nn.pair import Backward, Pair, Reading, UnknownLayerError

__all__ = [
    "ACTIVATIONS",
    "MONOTONE_OPERATIONS",
    "STARTS",
    "Backward",
    "Constraint",
    "ConvexConcave",
    "Inverted",
    "Monotone",
    "NotMonotoneError",
    "Pair",
    "Paired",
    "Plain",
    "Reading",
    "Start",
    "UnknownLayerError",
    "View",
    "assert_monotone",
    "constrained",
    "constraint_statistics",
    "project",
    "reparametrise",
]
