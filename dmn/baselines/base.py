"""What the methods of other libraries share: one call, whatever the library asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, fields

import torch
from torch import Tensor, nn

from dmn.errors import MissingPackageError
from dmn.explain import Target, resolve_target
from dmn.explain.read import eval_mode_with_grad
from dmn.graph.equal import require_equal
from dmn.nn import check_target


@contextmanager
def required(package: str) -> Iterator[None]:
    """Say how to install a package if what is imported within the block is missing.

    Args:
        package: Its name, or those of some.

    Raises:
        MissingPackageError: if something cannot be imported.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"this needs {package} ({error}): pip install 'dmn[compare]'"
        ) from error


class Logits(nn.Module):
    """What is explained: the logits, or each less the mean of all.

    Args:
        model: Returns logits (B, K).
        contrast: Subtract the mean.

    Attributes:
        asked: The classes explained, on the CPU; what the network does not have is refused.
    """

    def __init__(self, model: nn.Module, contrast: bool) -> None:
        super().__init__()
        self.model, self.contrast = model, contrast
        self.asked = torch.empty(0, dtype=torch.long)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K)."""
        logits: Tensor = self.model(x)
        check_target(logits, self.asked, self.contrast)
        return logits - logits.mean(dim=1, keepdim=True) if self.contrast else logits


@dataclass(eq=False, repr=False)
class Baseline:
    """A method that explains any classifier, see `dmn.explain.Explainer`.

    Args:
        model: Takes images (B, C, H, W), returns logits (B, K).
        contrast: Remove what speaks for all classes alike: explain the logit less the mean of all.
        absolute: Return magnitudes.

    Raises:
        TargetError: when called for what is no class, and for the contrast of a single one.
    """

    model: nn.Module = field(repr=False)
    _: KW_ONLY
    contrast: bool = False
    absolute: bool = False

    def __post_init__(self) -> None:
        self.network = self.prepare()
        self.compared = self.network is self.model
        self.scores = Logits(self.network, self.contrast)

    def __repr__(self) -> str:
        options = [(each.name, getattr(self, each.name), each) for each in fields(self)]
        shown = [f"{name}={v!r}" for name, v, each in options if each.repr and v != each.default]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Explain images of shape (B, C, H, W); returns maps of shape (B, 1, H, W), float32.

        Positive speaks for the target: class index, one an image, or None for the predicted class.
        """
        if not self.compared:
            require_equal(self.network, self.model, x)
            self.compared = True
        with eval_mode_with_grad(self.network):
            images = x.detach().clone().requires_grad_()
            chosen = resolve_target(self.network, images, target).clone()
            self.scores.asked = chosen.cpu()
            maps = self.attribute(images, chosen).detach().sum(dim=1, keepdim=True)
        return (maps.abs() if self.absolute else maps).float()

    def prepare(self) -> nn.Module:
        """Return the network that is run: the model itself, unless a method has to rewrite it."""
        return self.model

    def attribute(self, x: Tensor, target: Tensor) -> Tensor:
        """Attribute the scores of one class an image to it.

        Args:
            x: Images (B, C, H, W) that require gradients; the network is in eval mode.
            target: Class indices (B,).

        Returns:
            (B, any, H, W); the sum over channels is the map.
        """
        raise NotImplementedError
