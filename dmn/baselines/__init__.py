"""Attribution methods of other libraries, behind the call of every explainer.

The libraries are optional, and imported when a method is made: `pip install 'dmn[compare]'`.
"""

from collections.abc import Callable

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
from dmn.baselines.torchcam import GradCAM, GradCAMpp, LayerCAM
from dmn.baselines.zennit import (
    ExcitationBackprop,
    LRPEpsilon,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonPlus,
    LRPGamma,
)
from dmn.explain import Explainer

BASELINES: dict[str, Callable[..., Explainer]] = {
    "Gradient": Gradient,
    "InputXGradient": InputXGradient,
    "GuidedBackprop": GuidedBackprop,
    "IntegratedGradients": IntegratedGradients,
    "GradientSHAP": GradientSHAP,
    "SmoothGrad": SmoothGrad,
    "DeepLift": DeepLift,
    "Occlusion": Occlusion,
    "FeatureAblation": FeatureAblation,
    "GradCAM": GradCAM,
    "GradCAM++": GradCAMpp,
    "LayerCAM": LayerCAM,
    "LRPEpsilon": LRPEpsilon,
    "LRPEpsilonPlus": LRPEpsilonPlus,
    "LRPEpsilonAlpha2Beta1": LRPEpsilonAlpha2Beta1,
    "LRPGamma": LRPGamma,
    "ExcitationBackprop": ExcitationBackprop,
}
"""The methods by the name they are asked for; each takes the model, then its own options."""

__all__ = [
    "BASELINES",
    "Baseline",
    "DeepLift",
    "ExcitationBackprop",
    "FeatureAblation",
    "GradCAM",
    "GradCAMpp",
    "Gradient",
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
