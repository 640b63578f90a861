"""Images that do not fit a network, found out after it failed on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dmn.errors import DataError
from dmn.nn.modes import eval_mode
from dmn.nn.pair import Pair

_POSITIONS = {3: ", L", 4: ", H, W", 5: ", D, H, W"}  # by rank
_NORM_RANKS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4,),
    nn.BatchNorm3d: (5,),
}


@contextmanager
def misfits_explained(model: nn.Module | Pair, x: Tensor) -> Iterator[None]:
    """Name the layer that images do not fit, if that is why the block failed.

    Args:
        model: The network that the block runs.
        x: The images that it runs on.

    Raises:
        DataError: names the layer, what it takes and what it got. Other errors pass unchanged.
    """
    try:
        yield
    except DataError:
        raise
    except (RuntimeError, ValueError, LookupError) as error:
        try:
            check_fit(model, x)
        except DataError as misfit:
            raise misfit from error
        raise


def check_fit(model: nn.Module | Pair, x: Tensor) -> None:
    """Run a network on images, and refuse them where they do not fit one of its layers.

    Args:
        model: Any network; errors of its own are ignored.
        x: Images (B, C, H, W), or of another shape.

    Raises:
        DataError: names the first layer whose input has another rank, number of channels or type
            than it takes, and both.
    """
    names: Iterable[tuple[str, nn.Module]] = ((type(m).__name__, m) for m in model.modules())
    if isinstance(model, nn.Module):
        names = model.named_modules()
    images = f"images {tuple(x.shape)} do not fit {network_name(model)}"
    try:
        with ExitStack() as hooks, torch.no_grad(), eval_mode(model):
            for name, module in names:
                hooks.enter_context(module.register_forward_pre_hook(_checker(images, name)))
            model(x.detach())
    except DataError:
        raise
    except Exception:
        return


def check_rank(model: nn.Module | Pair, x: Tensor) -> None:
    """Refuse images without a batch axis.

    PyTorch's convolutions also take a single image (C, H, W). Its K logits would then look like one
    logit for each of K images.

    Args:
        model: Any network. It is run only if it has convolutions of another rank than the images.
        x: Images (B, C, H, W), signals (B, C, L) or volumes (B, C, D, H, W).

    Raises:
        DataError: names the first layer that the images do not fit, and both shapes.
    """
    convolutions = (module for module in model.modules() if isinstance(module, _ConvNd))
    if any(convolution.weight.dim() != x.dim() for convolution in convolutions):
        check_fit(model, x)


def network_name(model: object) -> str:
    """Return the name of a network for messages; a split network has that of its original."""
    return str(getattr(model, "name", type(model).__name__))


def _checker(images: str, name: str) -> Callable[[nn.Module, Any], None]:
    """Return a hook that refuses an input of the layer of this name."""

    def check(layer: nn.Module, args: Any) -> None:
        if not (args and isinstance(args[0], Tensor)):
            return
        where, x = f"{name or 'it'} ({type(layer).__name__})", args[0]
        if taken := _expected(layer, x.shape):
            raise DataError(f"{images}: {where} takes {taken}, and gets {tuple(x.shape)}")
        if isinstance(layer, nn.Linear | _ConvNd) and x.dtype != layer.weight.dtype:
            raise DataError(f"{images}: {where} takes {layer.weight.dtype}, and gets {x.dtype}")

    return check


def _expected(layer: nn.Module, shape: torch.Size) -> str | None:
    """Return the shape that a layer takes if it does not take this one."""
    if isinstance(layer, nn.Linear):
        return None if shape[-1:] == (layer.in_features,) else f"(..., {layer.in_features})"
    if isinstance(layer, _ConvNd):
        channels: Any = layer.in_channels
        ranks: tuple[int, ...] = (layer.weight.dim(),)
    elif type(layer) in _NORM_RANKS:
        channels, ranks = layer.num_features, _NORM_RANKS[type(layer)]
    else:
        return None
    if len(shape) in ranks and shape[1] == channels:
        return None
    return f"(B, {channels}{_POSITIONS[ranks[-1]]})"
