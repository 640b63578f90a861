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
from dmn.explain.layers import find_grids
from dmn.explain.registry import register
from dmn.explain.resize import resize
from dmn.nn import Grid, check_layers


def _torchcam() -> Any:
    with required("torchcam"):
        from torchcam import methods
    return methods


@dataclass(eq=False, repr=False)
class CAM(Baseline):
    """A layer's activations, weighted, summed over channels, clipped at 0 and resized to the image.

    The layer may have its channels last, or hold the image as tokens; see `dmn.nn.GridFinder` for
    how that is found. Class and register tokens are left out.

    Args:
        model: Takes images (B, C, H, W) and returns logits (B, K). It is not copied.
        layer: Name of a module whose output is an image (B, C, h, w) or (B, h, w, C), or has the
            tokens of one, (B, prefix + h w, C).
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
        self.grids: dict[torch.Size, Grid | None] = {}  # by the shape of an image
        self.extract = getattr(_torchcam(), self.extractor)
        names = [name for name, _ in self.model.named_modules() if name]
        check_layers([self.layer], names, get_close_matches(self.layer, names, n=8, cutoff=0.0))

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Return class activation maps (B, 1, H, W); see `Baseline.attribute`."""
        grid = self._grid(x)
        with self.extract(self.model, self.layer, reshape_transform=grid and grid.to_image) as cam:
            # after torchcam's own hooks, so that nothing overwrites what they store
            copy = partial(self._copy_output, grid)
            with self.model.get_submodule(self.layer).register_forward_hook(copy):
                logits = self.scores(x)
            (maps,) = cam(target.tolist(), logits, normalized=False)
            maps = self.combine(maps, cam.hook_a[0], cam.hook_g[0])
        return resize(maps[:, None], x.shape[2:])

    def combine(self, maps: Tensor, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return maps (B, h, w): torchcam's, or from activations and gradients (B, C, h, w)."""
        return maps

    def _grid(self, x: Tensor) -> Grid | None:
        """Return how the layer's output holds an image; None if it holds none."""
        if x.shape[1:] not in self.grids:
            found = find_grids(self.model, x)
            if self.layer not in found:
                raise UnknownNameError(
                    f"layer {self.layer!r} does not run, or returns no single tensor; name another"
                )
            self.grids[x.shape[1:]] = found[self.layer]
        return self.grids[x.shape[1:]]

    def _copy_output(
        self, grid: Grid | None, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        if grid is None or not grid.fits(output.shape):
            raise UnknownNameError(f"layer {self.layer!r} holds no image, {tuple(output.shape)}")
        return output.clone()


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
