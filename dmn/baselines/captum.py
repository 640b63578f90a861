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

from dmn.baselines.base import Baseline
from dmn.baselines.rewrite import (
    BothReLUs,
    WindowsApart,
    for_tensor_hooks,
    refuse_without_rule,
    windows_overlap,
)
from dmn.errors import required
from dmn.explain.registry import register
from dmn.rules import Rule
from dmn.rules.pools import WinnerPool

LEAST_DIFFERENCE = 1e-10  # captum's: DeepLift takes the gradient of what differs by less


class Captum(Baseline):
    """A method of captum, summed over the image's channels; see `Baseline` for the options.

    Raises:
        MissingPackageError: without captum.
    """

    def __post_init__(self) -> None:
        with required("captum"):
            from captum import attr
        self.captum = attr
        super().__post_init__()


@register("post-hoc")
class Gradient(Captum):
    """The gradient of the logit.

    Source: Simonyan, Vedaldi & Zisserman, Deep Inside Convolutional Networks, 2014; signed here.

    Examples:
        >>> Gradient(nn.Flatten())(torch.tensor([[[[2.0, 3.0]]]]), target=1)
        tensor([[[[0., 1.]]]])
    """

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return gradients (B, C, H, W); see `Baseline.attribute`."""
        gradient: Tensor = self.captum.Saliency(self.scores).attribute(x, target, abs=False)
        return gradient


@register("post-hoc")
class InputXGradient(Captum):
    """The gradient of the logit times the image.

    Source: Shrikumar et al., Not Just a Black Box, 2016.

    Examples:
        >>> InputXGradient(nn.Flatten())(torch.tensor([[[[2.0, 3.0]]]]), target=1)
        tensor([[[[0., 3.]]]])
    """

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return products (B, C, H, W); see `Baseline.attribute`."""
        product: Tensor = self.captum.InputXGradient(self.scores).attribute(x, target)
        return product


@register("post-hoc")
@dataclass(eq=False, repr=False)
class IntegratedGradients(Captum):
    """The mean gradient on the line from a baseline to the image, times their difference.

    Args:
        steps: Points on the line, of the Gauss-Legendre quadrature.
        baseline: Value of every pixel of the baseline.
        batch: Images per pass; never fewer than are explained at once.

    Source: Sundararajan, Taly & Yan, Axiomatic Attribution for Deep Networks, ICML 2017.

    Examples:
        >>> IntegratedGradients(nn.Flatten(), steps=20)(torch.tensor([[[[2.0, 3.0]]]]), target=1)
        tensor([[[[0., 3.]]]])
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
    """The mean of the gradients at noisy copies of the image.

    Args:
        samples: Number of samples.
        noise: Standard deviation of the noise, as a share of the image's range.
        seed: For the random numbers, which are the same for all images.

    Source: Smilkov et al., SmoothGrad, 2017.

    Examples:
        >>> SmoothGrad(nn.Flatten(), samples=5)(torch.tensor([[[[2.0, 3.0]]]]), target=1)
        tensor([[[[0., 1.]]]])
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
    """Expected gradients: gradients at random points on the line from a baseline to the image.

    Args:
        samples: Number of samples.
        noise: Standard deviation of the noise added to the image, as a share of its range.
        seed: For the random numbers, which are the same for all images.
        baseline: Value of every pixel at the start of the line.

    Source: Lundberg & Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017.

    Examples:
        >>> GradientSHAP(nn.Flatten(), baseline=1.0)(torch.tensor([[[[2.0, 3.0]]]]), target=1)
        tensor([[[[0., 2.]]]])
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
    """The gradient of the logit, whose negative values are set to 0 at every ReLU.

    Raises:
        UnsupportedError: if the model cannot be written as a graph with hooks; lists what is in
            the way.
        NotEqualError: on the first call, if the copy is not the same function.

    Source: Springenberg et al., Striving for Simplicity, 2015.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.ReLU())
        >>> GuidedBackprop(net)(torch.tensor([[[[2.0, 3.0]]]]), target=1)
        tensor([[[[0., 1.]]]])
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
    """Differences from a baseline image, propagated back in proportion (the Rescale rule).

    A map sums to the logit minus the baseline's logit. ReLU, ELU, LeakyReLU, Sigmoid, Tanh,
    Softplus and max pooling have rules. Networks with another nonlinear operation, or with
    overlapping windows of `MaxPool3d`, are refused.

    Args:
        baseline: Value of every pixel of the baseline.

    Raises:
        UnsupportedError: if the model cannot be written as a graph with hooks, or has operations
            without a rule; lists them.
        NotEqualError: on the first call, if the copy is not the same function.

    Source: Shrikumar, Greenside & Kundaje, Learning Important Features, ICML 2017.

    Examples:
        >>> net = nn.Sequential(nn.Flatten(), nn.ReLU())
        >>> DeepLift(net)(torch.tensor([[[[-2.0, 3.0]]]]), target=1)
        tensor([[[[0., 3.]]]])
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
    """How much the logit falls when a window is blanked, averaged over the windows on a pixel.

    Args:
        window: Side of the window, as a share of the image's side.
        stride: Distance between windows, as a share of the window's side, in (0, 1].
        baseline: Value of blanked pixels.
        batch: Images per pass; never fewer than are explained at once.

    Source: Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014.

    Examples:
        >>> Occlusion(nn.Flatten(), window=0.5)(torch.tensor([[[[2.0, 3.0]]]]), target=1)
        tensor([[[[0., 3.]]]])
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
    """How much the logit falls when a cell of a grid is blanked.

    Args:
        cells: Cells per side; fewer if the image has fewer pixels.
        baseline: Value of blanked pixels.
        batch: Images per pass; never fewer than are explained at once.

    Source: Kokhlikyan et al., Captum, 2020.

    Examples:
        >>> FeatureAblation(nn.Flatten(), cells=2)(torch.tensor([[[[2.0, 3.0]]]]), target=1)
        tensor([[[[0., 3.]]]])
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
