"""What every explainer is: an object that turns images into maps."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from dmn.explain.target import Target


@runtime_checkable
class Explainer(Protocol):
    """Anything that turns images into maps: split methods, baselines, controls.

    An explainer works in any grad mode and on the images' device. It leaves the model as it was:
    hooks, modes, gradients and `requires_grad` flags do not change.

    Examples:
        >>> def brightness(x, target=None):
        ...     return x.float().mean(dim=1, keepdim=True)
        >>> isinstance(brightness, Explainer)
        True
    """

    def __call__(self, x: Tensor, target: Target = None) -> Tensor:
        """Explain images.

        Args:
            x: Images (B, C, H, W), signals (B, C, L) or volumes (B, C, D, H, W).
            target: One class index, one per image, or None for the predicted classes. The name of a
                class may stand for its index if the network has an attribute `classes`. `Against`
                for a class and its rival.

        Returns:
            Maps (B, 1, H, W), float32, with the axes of x. Positive values speak for the target.

        Raises:
            DataError: for other shapes, or images that do not fit a layer; names the layer.
            UnsupportedError: if the network does not return logits; see `dmn.nn.pick_logits`.
            TargetError: for a target that is not a class, or not one per image.
            UnknownNameError: for an unknown name of a class.
        """
