"""What a network takes and returns: images in, logits out, in one of the usual forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dmn.errors import DataError, UnsupportedError
from dmn.nn.misfit import misfits_explained, network_name
from dmn.nn.pair import Pair

_RANKS = {3: "signals (B, C, L)", 4: "images (B, C, H, W)", 5: "volumes (B, C, D, H, W)"}


def check_numbers(x: Any) -> None:
    """Refuse anything but a tensor of floating point numbers.

    Args:
        x: Images.

    Raises:
        DataError: for anything else; names its type.
    """
    if not isinstance(x, Tensor):
        raise DataError(f"images are of type {type(x).__name__}; give a tensor (B, C, H, W)")
    if not x.is_floating_point():
        raise DataError(f"images are of {x.dtype}; give floating point numbers, as in training")


def check_images(x: Any) -> None:
    """Refuse anything but a batch of images, signals or volumes.

    Args:
        x: What is to be explained.

    Raises:
        DataError: unless it is a tensor of floating point numbers of shape (B, C, L), (B, C, H, W)
            or (B, C, D, H, W).
    """
    check_numbers(x)
    if x.dim() not in _RANKS:
        *others, last = _RANKS.values()
        raise DataError(
            f"images have the shape {tuple(x.shape)}; give {', '.join(others)} or {last}"
        )


def pick_logits(output: Any, network: str) -> Tensor:
    """Return the logits from what a network returns.

    They are the first that exists of: the tensor itself; the attribute `logits`, as in outputs of
    Hugging Face; the key "logits" of a mapping; the first element of a tuple or list.

    Args:
        output: What the network returned.
        network: The network's name, for the error message.

    Raises:
        UnsupportedError: for anything else; says what it is.

    Examples:
        >>> pick_logits({"logits": torch.zeros(2, 10)}, "MyNetwork").shape
        torch.Size([2, 10])
    """
    picked = output
    if not isinstance(output, Tensor):
        picked = getattr(output, "logits", None)
        if picked is None and isinstance(output, Mapping):
            picked = output.get("logits")
        if picked is None and isinstance(output, tuple | list):
            picked = next(iter(output), None)
    if not isinstance(picked, Tensor):
        raise UnsupportedError(
            f"{network} returns {_describe(output)}, in which no logits were found; wrap it in a "
            "module whose forward returns logits (B, K)"
        )
    return picked


def logits_matrix(output: Any, network: str, count: int) -> Tensor:
    """Return the logits from what a network returns as a matrix; see `pick_logits`.

    Args:
        output: What the network returned. Logits (B,) stand for one class.
        network: The network's name, for the error message.
        count: The number of images, B.

    Returns:
        Logits (B, K).

    Raises:
        UnsupportedError: if they have another shape, as in segmentation, or are integers.
    """
    logits = pick_logits(output, network)
    if logits.dim() not in (1, 2) or logits.shape[0] != count or not logits.is_floating_point():
        raise UnsupportedError(
            f"{network} returns {tuple(logits.shape)} of {logits.dtype} for {count} images, not "
            "logits (B, K); wrap it in a module that returns one number per class, as by a sum "
            "over pixels, or by picking one"
        )
    return logits.unsqueeze(1) if logits.dim() == 1 else logits


def predict_logits(model: nn.Module | Pair, x: Tensor) -> Tensor:
    """Run a network on images, and return its logits as a matrix.

    Args:
        model: Returns logits in any form that `pick_logits` knows.
        x: Images (B, C, H, W), signals (B, C, L) or volumes (B, C, D, H, W).

    Returns:
        Logits (B, K); K is 1 if the network returns (B,).

    Raises:
        UnsupportedError: if it returns something else; see `logits_matrix`.
        DataError: if the images do not fit one of its layers; names the layer and both shapes.
    """
    with misfits_explained(model, x):
        return logits_matrix(model(x), network_name(model), x.shape[0])


def _describe(output: Any) -> str:
    name = type(output).__name__
    if isinstance(output, Mapping):
        return f"{name} of keys {', '.join(map(str, output))}"
    if isinstance(output, tuple | list):
        kinds = ", ".join(type(element).__name__ for element in output)
        return f"{name} of {kinds or 'nothing'}"
    return name
