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
            x: Images (B, C, H, W), signals (B, C, L) or volumes (B, C, D, H, W).
            target: Class index, one per image, or None for the predicted class. The name of a class
                stands for its index if the network has an attribute `classes`.

        Returns:
            Maps (B, 1, H, W), float32, with the axes of x; positive speaks for the target.

        Raises:
            DataError: for other shapes, and images that do not fit a layer; names the layer.
            UnsupportedError: if the network does not return logits; see `dmn.nn.pick_logits`.
            TargetError: for a target that is not a class, or not one per image.
            UnknownNameError: for a name of no class.
        """
