"""Attribution methods of other libraries, called like every explainer.

The libraries are optional, and imported when a method is created: `pip install 'dmn[compare]'`.
Attention rollout and AttnLRP are written here, after their papers, and need none.
Each method registers itself; `dmn.explain.list_methods("post-hoc")` lists them.
"""

from dmn.baselines.attnlrp import AttnLRP
from dmn.baselines.base import Baseline
from dmn.baselines.captum import (
    DeepLift,
    FeatureAblation,
    Gradient,
    GradientSHAP,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
)
from dmn.baselines.rollout import AttentionRollout, GradientAttentionRollout
from dmn.baselines.torchcam import GradCAM, GradCAMpp, LayerCAM
from dmn.baselines.zennit import (
    ExcitationBackprop,
    LRPEpsilon,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonPlus,
    LRPGamma,
)

__all__ = [
    "AttentionRollout",
    "AttnLRP",
    "Baseline",
    "DeepLift",
    "ExcitationBackprop",
    "FeatureAblation",
    "GradCAM",
    "GradCAMpp",
    "Gradient",
    "GradientAttentionRollout",
    "GradientSHAP",
    "GuidedBackprop",
    "InputXGradient",
    "IntegratedGradients",
    "LRPEpsilon",
    "LRPEpsilonAlpha2Beta1",
    "LRPEpsilonPlus",
    "LRPGamma",
    "LayerCAM",
    "Occlusion",
    "SmoothGrad",
]
