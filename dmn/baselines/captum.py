"""Gradients and perturbations of the image, computed by captum.

`GuidedBackprop` and `DeepLift` hook modules of a copy of the model, made when the method is
created: later training of the model does not change it. The other methods run the model itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dmn.baselines.base import Baseline, required
from dmn.baselines.rewrite import (
    BothReLUs,
    WindowsApart,
    for_tensor_hooks,
    refuse_without_rule,
    windows_overlap,
)
from dmn.explain.registry import register
from dmn.rules import Rule
from dmn.rules.pools import WinnerPool

LEAST_DIFFERENCE = 1e-10  # captum's: DeepLift takes the gradient of what differs by less


def _captum() -> Any:
    with required("captum"):
        from captum import attr
    return attr


class Captum(Baseline):
    """A method of captum's, summed over the image's channels.

    Args:
        model: Takes images (B, C, H, W), returns logits (B, K).
        contrast: Explain the logit minus the mean of all.
        absolute: Return magnitudes of the sum over channels.

    Raises:
        MissingPackageError: without captum.
    """

    def __post_init__(self) -> None:
        self.captum = _captum()
        super().__post_init__()


@register("post-hoc")
class Gradient(Captum):
    """The gradient of the logit.

    Source: Simonyan, Vedaldi & Zisserman, Deep Inside Convolutional Networks, 2014; signed here.
    """

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return gradients (B, C, H, W); see `Baseline.attribute`."""
        gradient: Tensor = self.captum.Saliency(self.scores).attribute(x, target, abs=False)
        return gradient


@register("post-hoc")
class InputXGradient(Captum):
    """The gradient of the logit times the image.

    Source: Shrikumar et al., Not Just a Black Box, 2016.
    """

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return products (B, C, H, W); see `Baseline.attribute`."""
        product: Tensor = self.captum.InputXGradient(self.scores).attribute(x, target)
        return product


@register("post-hoc")
@dataclass(eq=False, repr=False)
class IntegratedGradients(Captum):
    """The mean gradient on the line from a baseline to the image, times the difference of both.

    Args:
        steps: Points of the Gauss-Legendre quadrature on the line.
        baseline: Value of every pixel of the baseline.
        batch: Images per pass, but at least as many as are explained.

    Source: Sundararajan, Taly & Yan, Axiomatic Attribution for Deep Networks, ICML 2017.
    """

    steps: int = 50
    baseline: float = 0.0
    batch: int = 64

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return integrals (B, C, H, W); see `Baseline.attribute`."""
        integral: Tensor = self.captum.IntegratedGradients(self.scores).attribute(
            x,
            self.baseline,
            target,
            n_steps=self.steps,
            internal_batch_size=max(self.batch, len(x)),
        )
        return integral


@register("post-hoc")
@dataclass(eq=False, repr=False)
class SmoothGrad(Gradient):
    """The mean gradient around the image.

    All images use the same random numbers, so maps do not depend on the batch.

    Args:
        samples: Number of samples.
        noise: Standard deviation, as a share of the image's own range of values.
        seed: For the random numbers.

    Source: Smilkov et al., SmoothGrad, 2017.
    """

    samples: int = 25
    noise: float = 0.15
    seed: int = 0

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return mean gradients (B, C, H, W); see `Baseline.attribute`."""
        generator = torch.Generator().manual_seed(self.seed)
        parts = (self.draw(x.detach(), target, generator) for _ in range(self.samples))
        return sum(parts, torch.zeros_like(x)) / self.samples

    def draw(self, x: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        """Return one sample of the mean, (B, C, H, W)."""
        return super().attribute(self.disturb(x, generator).requires_grad_(), target)

    def disturb(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return images with noise."""
        axes = tuple(range(1, x.dim()))
        spread = x.amax(axes, keepdim=True) - x.amin(axes, keepdim=True)
        return x + self.noise * spread * torch.randn(x.shape[1:], generator=generator).to(x)


@register("post-hoc")
@dataclass(eq=False, repr=False)
class GradientSHAP(SmoothGrad):
    """Expected gradients: integrated gradients at random points on the line and around the image.

    All images use the same random numbers, so maps do not depend on the batch.

    Args:
        samples: Number of samples.
        noise: Standard deviation, as a share of the image's own range of values.
        seed: For the random numbers.
        baseline: Value of every pixel at the start of the line.

    Source: Lundberg & Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017.
    """

    noise: float = 0.0
    baseline: float = 0.0

    def draw(self, x: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        """Return one sample; see `SmoothGrad.draw`."""
        way = self.disturb(x, generator) - self.baseline
        share = torch.rand((), generator=generator).to(x)
        point = (self.baseline + share * way).requires_grad_()
        return way * Gradient.attribute(self, point, target)


@register("post-hoc")
class GuidedBackprop(Captum):
    """The gradient of the logit, of which every ReLU keeps only positive values.

    Raises:
        UnsupportedError: if the model cannot be traced to a graph, or hooked; lists the operations.
        NotEqualError: on the first call, if the copy is not the same function.

    Source: Springenberg et al., Striving for Simplicity, 2015.
    """

    def prepare(self, example: Tensor | None = None) -> nn.Module:
        """Return a copy whose ReLUs are modules, each called once."""
        return for_tensor_hooks(self.model, example)

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return guided gradients (B, C, H, W); see `Baseline.attribute`."""
        with _without_hook_warnings():
            guided: Tensor = self.captum.GuidedBackprop(self.scores).attribute(x, target)
        return guided


_RESCALED = (
    *(nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
)


def _has_rescale_rule(target: Any, rule: Rule | str) -> bool:
    """Return whether captum has a rule for a module, or the module is linear and needs none."""
    if isinstance(target, nn.MaxPool3d) and windows_overlap(target):
        return False  # captum's rule keeps only one of the windows that share a maximum
    if type(target) in (*_RESCALED, BothReLUs, WindowsApart):
        return True
    return isinstance(rule, Rule) and not (rule.nonlinear or isinstance(rule, WinnerPool))


@register("post-hoc")
@dataclass(eq=False, repr=False)
class DeepLift(Captum):
    """Each unit's difference from a baseline, propagated back in proportion (Rescale rule).

    The maps sum to the difference of the logits. ReLU, ELU, LeakyReLU, Sigmoid, Tanh, Softplus and
    max pooling have rules; a network with another nonlinear operation is refused, and so are
    overlapping windows of `MaxPool3d`.

    Args:
        baseline: Value of every pixel.

    Raises:
        UnsupportedError: if the model cannot be traced to a graph or hooked, or an operation has no
            rule; lists the operations.
        NotEqualError: on the first call, if the copy is not the same function.

    Source: Shrikumar, Greenside & Kundaje, Learning Important Features, ICML 2017.
    """

    baseline: float = 0.0

    def prepare(self, example: Tensor | None = None) -> nn.Module:
        """Return a copy with a module for each operation."""
        network = for_tensor_hooks(self.model, example, rescale=True)
        refuse_without_rule(network, _has_rescale_rule, type(self).__name__)
        return network

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return contributions (B, C, H, W); see `Baseline.attribute`."""
        least = max(LEAST_DIFFERENCE, torch.finfo(x.dtype).tiny)  # in float16 it would be 0
        method = self.captum.DeepLift(self.scores, eps=least)
        with _without_hook_warnings():
            lifted: Tensor = method.attribute(x, self.baseline, target)
        return lifted


@register("post-hoc")
@dataclass(eq=False, repr=False)
class Occlusion(Captum):
    """The decrease of the logit when a window is blanked, averaged over the windows on a pixel.

    Args:
        window: Side of the window, as a share of the image's.
        stride: Distance of windows, as a share of the window's side, in (0, 1].
        baseline: Value of blanked pixels.
        batch: Images per pass, but at least as many as are explained.

    Source: Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014.
    """

    window: float = 0.125
    stride: float = 0.5
    baseline: float = 0.0
    batch: int = 64

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return losses (B, C, H, W), one for all channels; see `Baseline.attribute`."""
        sides = [max(1, round(self.window * size)) for size in x.shape[2:]]
        strides = [max(1, round(self.stride * side)) for side in sides]
        losses: Tensor = self.captum.Occlusion(self.scores).attribute(
            x,
            (x.shape[1], *sides),
            (x.shape[1], *strides),
            self.baseline,
            target,
            perturbations_per_eval=max(1, self.batch // len(x)),
        )
        return losses[:, :1]


@register("post-hoc")
@dataclass(eq=False, repr=False)
class FeatureAblation(Captum):
    """The decrease of the logit when a cell of a grid is blanked.

    Args:
        cells: Cells per side; fewer if the image has fewer pixels.
        baseline: Value of blanked pixels.
        batch: Images per pass, but at least as many as are explained.

    Source: Kokhlikyan et al., Captum, 2020.
    """

    cells: int = 8
    baseline: float = 0.0
    batch: int = 64

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return losses (B, C, H, W), one for all channels; see `Baseline.attribute`."""
        cells = torch.zeros((), dtype=torch.long, device=x.device)
        for size in x.shape[2:]:
            cell = torch.arange(size, device=x.device) * self.cells // size
            cells = cells[..., None] * self.cells + cell
        losses: Tensor = self.captum.FeatureAblation(self.scores).attribute(
            x,
            self.baseline,
            target,
            feature_mask=cells[None, None],
            perturbations_per_eval=max(1, self.batch // len(x)),
        )
        return losses[:, :1]


@contextmanager
def _without_hook_warnings() -> Iterator[None]:
    """Suppress captum's warnings about hooks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*Setting (backward|forward)")
        yield
