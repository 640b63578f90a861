"""Maps of pairs f = g - h, control maps that ignore the network, and the registry of methods."""

from dmn.explain.base import Explainer
from dmn.explain.controls import CentreGaussian, Edges, RandomMap, controls
from dmn.explain.explanation import Explanation
from dmn.explain.methods import (
    SplitCAM,
    SplitExplainer,
    SplitGrad,
    SplitLRP,
    StreamMaps,
    explain,
    explain_together,
)
from dmn.explain.registry import METHODS, MethodSpec, find_method, list_methods, register
from dmn.explain.target import Against, Target, resolve_target

__all__ = [
    "METHODS",
    "Against",
    "CentreGaussian",
    "Edges",
    "Explainer",
    "Explanation",
    "MethodSpec",
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
    "find_method",
    "list_methods",
    "register",
    "resolve_target",
]
