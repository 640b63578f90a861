"""Trained networks, canonized and split into differences of monotone ones, exactly."""

from dmn.nn import Add
from dmn.posthoc.canonize import canonize, canonized, hookable
from dmn.posthoc.certificate import Certificate
from dmn.posthoc.equal import NotEqualError
from dmn.posthoc.files import Converted, ConvertedFileError, load_converted, save_converted
from dmn.posthoc.graph import Unsupported, UnsupportedError, UntraceableError
from dmn.posthoc.learned import Example, UnknownObjectiveError, falls, learn_bounds
from dmn.posthoc.live import SplitAnew
from dmn.posthoc.mirror import mirror, written_out
from dmn.posthoc.pretrained import (
    MissingWeightsError,
    Pretrained,
    UnknownNameError,
    WeightsError,
    load,
)
from dmn.posthoc.rules import Activation, Linear, Rule
from dmn.posthoc.split import SplitModel, split
from dmn.posthoc.table import add_rule
from dmn.posthoc.through import ThroughFront, pair_of

__all__ = [
    "Activation",
    "Add",
    "Certificate",
    "Converted",
    "ConvertedFileError",
    "Example",
    "Linear",
    "MissingWeightsError",
    "NotEqualError",
    "Pretrained",
    "Rule",
    "SplitAnew",
    "SplitModel",
    "ThroughFront",
    "UnknownNameError",
    "UnknownObjectiveError",
    "Unsupported",
    "UnsupportedError",
    "UntraceableError",
    "WeightsError",
    "add_rule",
    "canonize",
    "canonized",
    "falls",
    "hookable",
    "learn_bounds",
    "load",
    "load_converted",
    "mirror",
    "pair_of",
    "save_converted",
    "split",
    "written_out",
]
