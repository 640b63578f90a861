"""Attribution maps: of pairs f = g - h, and controls that know nothing of the network."""

from dmn.explain.base import Explainer
from dmn.explain.controls import CentreGaussian, Edges, RandomMap, controls
from dmn.explain.methods import (
    SplitCAM,
    SplitExplainer,
    SplitGrad,
    SplitLRP,
    StreamMaps,
    explain,
    explain_together,
)
from dmn.explain.target import Target, resolve_target

__all__ = [
    "CentreGaussian",
    "Edges",
    "Explainer",
    "RandomMap",
    "SplitCAM",
    "SplitExplainer",
    "SplitGrad",
    "SplitLRP",
    "StreamMaps",
    "Target",
    "controls",
    "explain",
    "explain_together",
    "resolve_target",
]
