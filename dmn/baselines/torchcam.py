"""Class activation maps of one layer, computed by torchcam and resized to the image."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dmn.baselines.base import Baseline
from dmn.errors import UnknownNameError, required
from dmn.explain.registry import register
from dmn.explain.resize import resize
from dmn.nn import check_layers


def _torchcam() -> Any:
    with required("torchcam"):
        from torchcam import methods
    return methods


@dataclass(eq=False, repr=False)
class CAM(Baseline):
    """A layer's activations, weighted, summed over channels, clipped at 0 and resized to the image.

    Args:
        model: Takes images (B, C, H, W) and returns logits (B, K). It is not copied.
        layer: Name of a module whose output is an image (B, C, h, w).
        contrast: Explain the logit minus the mean of all logits.
        absolute: Has no effect, as the maps are not negative.

    Raises:
        UnknownNameError: if there is no such module; lists those that exist. When called, if the
            layer does not run, or if its output is not an image.
        MissingPackageError: without torchcam.
    """

    layer: str

    extractor: ClassVar[str] = "GradCAM"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.extract = getattr(_torchcam(), self.extractor)
        names = [name for name, _ in self.model.named_modules() if name]
        check_layers([self.layer], names, get_close_matches(self.layer, names, n=8, cutoff=0.0))

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return class activation maps (B, 1, H, W); see `Baseline.attribute`."""
        with self.extract(self.model, self.layer) as cam:
            # after torchcam's own hooks, so that nothing overwrites what they store
            copy = partial(self._copy_output, x.shape[2:])
            with self.model.get_submodule(self.layer).register_forward_hook(copy):
                logits = self.scores(x)
            if cam.hook_a[0] is None:
                raise UnknownNameError(f"layer {self.layer!r} does not run; name one that does")
            (maps,) = cam(target.tolist(), logits, normalized=False)
            maps = self.combine(maps, cam.hook_a[0], cam.hook_g[0])
        return resize(maps[:, None], x.shape[2:])

    def combine(self, maps: Tensor, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return maps (B, h, w): torchcam's, or from activations and gradients (B, C, h, w)."""
        return maps

    def _copy_output(
        self, size: torch.Size, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        if output.dim() != len(size) + 2:
            raise UnknownNameError(f"layer {self.layer!r} holds no image, {tuple(output.shape)}")
        if _channels_last(module, output.shape, size):
            raise UnknownNameError(
                f"layer {self.layer!r} holds an image with its channels last, "
                f"{tuple(output.shape)}; name one that has them first"
            )
        return output.clone()


def _channels_last(layer: nn.Module, shape: torch.Size, size: torch.Size) -> bool:
    """Return whether the channels of an output are its last axis, not its second.

    Of images (B, a, b, c), if only the first two sides have the image's proportions. Sides of
    signals and volumes tell too little: there the features of the layer's last weights decide.
    """
    if len(size) != 2:
        return shape[1] != _last_features(layer) == shape[-1]
    height, width = size

    def proportional(rows: int, columns: int) -> bool:
        return abs(rows * width - columns * height) < max(height, width)  # by less than a pixel

    _, a, b, c = shape
    return proportional(a, b) and not proportional(b, c)


def _last_features(layer: nn.Module) -> int | None:
    """Return the size of the last axis of what a linear layer or layer norm returns."""
    weighted = [module for module in layer.modules() if any(True for _ in module.parameters(False))]
    last = weighted[-1] if weighted else None
    if isinstance(last, nn.LayerNorm):
        return last.normalized_shape[-1]
    return last.out_features if isinstance(last, nn.Linear) else None


@register("post-hoc", needs_layer=True, featured=True)
class GradCAM(CAM):
    """A class activation map whose channels are weighted by the mean of their gradients.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> GradCAM(net, layer="0")(torch.rand(2, 1, 8, 8), target=2).shape
        torch.Size([2, 1, 8, 8])
    """


@register("post-hoc", "GradCAM++", needs_layer=True)
class GradCAMpp(CAM):
    """A class activation map whose channels are weighted by their positive gradients.

    The weights are those of the paper; torchcam 0.5 omits the divisor of eq. 19.

    Source: Chattopadhay et al., Grad-CAM++, WACV 2018, eq. 19.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> GradCAMpp(net, layer="0")(torch.rand(2, 1, 8, 8), target=2).shape
        torch.Size([2, 1, 8, 8])
    """

    def combine(self, maps: Tensor, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return maps (B, h, w) of activations and gradients (B, C, h, w)."""
        axes = tuple(range(2, activations.dim()))
        total = activations.sum(dim=axes, keepdim=True)
        divisor = 2 * gradients**2 + total * gradients**3
        shares = gradients**2 / torch.where(divisor == 0, 1, divisor)
        weights = (shares * gradients.relu()).sum(dim=axes, keepdim=True)
        return (weights * activations).sum(dim=1).relu()


@register("post-hoc", needs_layer=True)
class LayerCAM(CAM):
    """A class activation map in which each activation is weighted by its positive gradient.

    Source: Jiang et al., LayerCAM, IEEE TIP 2021.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> LayerCAM(net, layer="0")(torch.rand(2, 1, 8, 8), target=2).shape
        torch.Size([2, 1, 8, 8])
    """

    extractor: ClassVar[str] = "LayerCAM"
