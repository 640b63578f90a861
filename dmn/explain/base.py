"""What every explainer is: an object that turns images into maps."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from dmn.explain.target import Target


@runtime_checkable
class Explainer(Protocol):
    """Anything that explains: split methods, baselines, controls.

    It answers in any grad mode, on the images' device, and leaves the model as it was: no hook,
    mode, gradient or requires_grad flag changed.
    """

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Explain images.

        Args:
            x: Images (B, C, H, W).
            target: Class index, one per image, or None for the predicted class.

        Returns:
            Maps (B, 1, H, W), float32; positive speaks for the target.

        Raises:
            TargetError: for a target that is not a class, or not one per image.
        """
