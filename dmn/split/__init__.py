"""Trained networks as differences of monotone ones: the same function, bit for bit."""

from dmn.split.build import split
from dmn.split.certificate import Certificate
from dmn.split.front import FrontAdapter, as_pair
from dmn.split.learned_bounds import Example, learn_bounds, patch_logit_drops
from dmn.split.mirror import mirror, unfold_front
from dmn.split.model import SplitModel
from dmn.split.resplit import ResplitExplainer

__all__ = [
    "Certificate",
    "Example",
    "FrontAdapter",
    "ResplitExplainer",
    "SplitModel",
    "as_pair",
    "learn_bounds",
    "mirror",
    "patch_logit_drops",
    "split",
    "unfold_front",
]
