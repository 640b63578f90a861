"""Networks of mosaics that classify each tile apart: evidence outside of a tile is provably wrong.

DiFull runs every layer on each tile alone, so that no number of one tile depends on another. DiPart
runs the layers on the whole mosaic, and pools and classifies each tile alone. There a tile's class
depends on others through the receptive fields of the layers only, which overlap at the borders; in
a deep network they cover the mosaic.

Source: Rao, Böhle & Schiele 2022, "Towards better understanding attribution methods".
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dmn.errors import UnsupportedError
from dmn.evaluate.batch import ExplainedBatch, Scores
from dmn.evaluate.grid import SIDE, TILES, cell_sums, tile
from dmn.nn import eval_mode

CHANCE = 1 / TILES
_TOLERANCE = 1e-3  # of the largest number of a layer; what leaks from other tiles is larger
_SPATIAL = (  # which let positions depend on their neighbours, or on the place in the image
    *(nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.GroupNorm),
    *(nn.InstanceNorm2d, nn.Upsample, nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d),
    *(nn.ReplicationPad2d, nn.CircularPad2d),
)
_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def take_apart(x: Tensor) -> Tensor:
    """Move the tiles of mosaics (B, C, SIDE h, SIDE w) to the batch: (TILES B, C, h, w)."""
    tiles = torch.unflatten(torch.unflatten(x, 3, (SIDE, -1)), 2, (SIDE, -1))
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def put_together(tiles: Tensor) -> Tensor:
    """Undo `take_apart`."""
    x = torch.unflatten(tiles, 0, (-1, SIDE, SIDE)).permute(0, 3, 1, 4, 2, 5)
    return x.flatten(4, 5).flatten(2, 3)


class OnTiles(nn.Module):
    """Layers that see each tile of a mosaic alone, and return a mosaic."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the mosaic of what each tile becomes."""
        return put_together(self.norm(self.layer(take_apart(x))))


class TilesApart(nn.Module):
    """The first layer of the head, from mosaics to tiles one after the other in the batch.

    Args:
        layer: Such as a global pooling.
        sides: Height and width of the mosaics. The middle line of an odd side is of two tiles, and
            is left out.
    """

    def __init__(self, layer: nn.Module, sides: tuple[int, int]) -> None:
        super().__init__()
        self.layer = layer
        self.odd = [(axis, side) for axis, side in zip((2, 3), sides, strict=True) if side % SIDE]

    def forward(self, x: Tensor) -> Tensor:
        """Return what each tile becomes, (TILES B, ...)."""
        for axis, side in self.odd:
            half = side // SIDE
            x = torch.cat([x.narrow(axis, 0, half), x.narrow(axis, side - half, half)], dim=axis)
        return self.layer(take_apart(x))  # type: ignore[no-any-return]


class TileLogits(nn.Module):
    """The last layer of the head, from tiles to the logits of all tiles of a mosaic."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, TILES K)."""
        return torch.unflatten(self.layer(x), 0, (-1, TILES)).flatten(1)


class _Call(NamedTuple):
    """One call of a module.

    Attributes:
        input: The tensor that it got.
        output: The tensor that it returned; it may have been overwritten.
        value: What it returned.
    """

    name: str
    module: nn.Module
    input: Tensor
    output: Tensor
    value: Tensor


def difull(model: nn.Module, example: Tensor) -> nn.Module:
    """Turn a network into one of mosaics that runs every layer on each tile alone.

    Args:
        model: A classifier whose convolutions and pooling layers are modules, and whose head begins
            with an `nn.AdaptiveAvgPool2d`, `nn.AdaptiveMaxPool2d` or `nn.Flatten` and ends in a
            module, such as ResNets, VGGs and plain networks. It is copied and not changed.
        example: Images of one tile (B, C, h, w); only the shape and the type matter.

    Returns:
        The copy, in eval mode, from mosaics (B, C, 2h, 2w) of `dmn.evaluate.grid.tile` to logits
        (B, 4K), class k of tile t at index K t + k. Layers keep their names and, below the head,
        return mosaics. BatchNorm runs within the convolution before it, and leaves an identity in
        its place, so that it can still be folded.

    Raises:
        UnsupportedError: if the tiles cannot be told apart; names the layer where that fails.

    Examples:
        >>> from dmn.evaluate.grid import tile
        >>> from dmn.models import PlainCNN
        >>> net, images = PlainCNN(1, widths=(4, 8), num_classes=3).eval(), torch.rand(4, 1, 28, 28)
        >>> logits = difull(net, images)(tile(images))
        >>> logits.shape, torch.allclose(logits.view(4, 3), net(images), atol=1e-6)
        (torch.Size([1, 12]), True)
    """
    return _disconnect(model, example, full=True)


def dipart(model: nn.Module, example: Tensor) -> nn.Module:
    """Turn a network into one of mosaics that pools and classifies each tile alone.

    Args:
        model: As for `difull`.
        example: As for `difull`.

    Returns:
        As from `difull`, with the same names.

    Raises:
        UnsupportedError: if the head cannot be applied to each tile; names the layer.

    Examples:
        >>> from dmn.models import PlainCNN
        >>> net = PlainCNN(1, widths=(4, 8), num_classes=3)
        >>> dipart(net, torch.rand(1, 1, 28, 28))(torch.rand(5, 1, 56, 56)).shape
        torch.Size([5, 12])
    """
    return _disconnect(model, example, full=False)


def _disconnect(model: nn.Module, example: Tensor, full: bool) -> nn.Module:
    tiles = _noise((TILES, *example.shape[1:]), example)
    copy: Any = deepcopy(model).eval()
    copy.classes = None  # names are of the classes of one tile
    with torch.no_grad(), eval_mode(model):
        calls = _record(model, tiles)
        leaves = [call for call in calls if not any(True for _ in call.module.children())]
        first, last = _head(leaves)
        names = [call.name for call in calls]
        head = calls[names.index(first.name) :]
        if full:
            with_norm = _wrap_layers(copy, leaves[: leaves.index(first)])
            checked = [call for call in calls if call.name not in with_norm]
            height, width = (SIDE * side for side in first.input.shape[2:])
        else:
            checked = head
            height, width = _sides(model, first, tile(tiles))
        _replace(copy, first.name, partial(TilesApart, sides=(height, width)))
        _replace(copy, last.name, TileLogits)
        _check(checked, copy, tile(tiles), compare_numbers=full)
    return copy


def _noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return the same noise for all images of a shape, so that no copy depends on the images."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(like)


def _sides(model: nn.Module, first: _Call, mosaic: Tensor) -> tuple[int, int]:
    """Return height and width of what a layer gets of a mosaic, by the network as it is."""
    seen: list[torch.Size] = []
    hook = model.get_submodule(first.name).register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape)
    )
    try:
        model(mosaic)
    except Exception:  # of the head, which may have a size of its own
        if not seen:
            raise
    finally:
        hook.remove()
    height, width = seen[-1][2:]
    return height, width


def _record(model: nn.Module, x: Tensor) -> list[_Call]:
    """Run a network, and return all calls of modules with a single tensor, in order."""
    calls: list[_Call] = []

    def note(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            calls.append(_Call(name, module, args[0], output, output.clone()))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_hook(partial(note, name)))
        model(x)
    return calls


def _head(leaves: list[_Call]) -> tuple[_Call, _Call]:
    """Return the first layer of the head and the last.

    The first is the last adaptive pooling or, where there is none, the flattening.
    """
    last = leaves[-1]
    if last.output.dim() != 2:
        raise _unsupported(last, "is the last layer, and does not return logits (B, K)")
    images = [call for call in leaves if call.input.dim() == 4]
    pools = [call for call in images if isinstance(call.module, _POOLS)]
    flattens = [call for call in images if isinstance(call.module, nn.Flatten)]
    if not pools and not flattens:
        modules = "AdaptiveAvgPool2d, AdaptiveMaxPool2d or Flatten"
        raise _unsupported(last, f"comes after no {modules} module of images; give it one")
    return (pools[-1] if pools else flattens[0]), last


def _wrap_layers(copy: nn.Module, calls: list[_Call]) -> set[str]:
    """Let layers of a copy see each tile alone; returns the names of those that include a norm."""
    with_norm = set()
    after = {id(call.output): call for call in calls}  # the calls keep the tensors alive
    norms = {
        after[id(call.input)].name: call.name
        for call in calls
        if isinstance(call.module, nn.BatchNorm2d) and id(call.input) in after
    }
    for call in {call.name: call for call in calls}.values():
        if not isinstance(call.module, _SPATIAL) or _is_pointwise(call.module):
            continue
        norm = None
        if isinstance(call.module, nn.Conv2d) and call.name in norms:
            norm = copy.get_submodule(norms[call.name])
            _replace(copy, norms[call.name], lambda _: nn.Identity())
            with_norm.add(call.name)
        _replace(copy, call.name, partial(OnTiles, norm=norm))
    return with_norm


def _is_pointwise(module: nn.Module) -> bool:
    """Return whether a convolution sees one position at a time."""
    if not isinstance(module, nn.Conv2d):
        return False
    return module.kernel_size == (1, 1) == module.stride and module.padding in ((0, 0), "valid")


def _replace(model: nn.Module, name: str, make: Callable[[nn.Module], nn.Module]) -> None:
    """Replace a module, under all its names, by what is made of it."""
    old = model.get_submodule(name)
    new = make(old)
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, new)


def _check(calls: list[_Call], copy: nn.Module, mosaic: Tensor, compare_numbers: bool) -> None:
    """Compare layers on a mosaic with the original's on its tiles, and name the first that differs.

    Args:
        calls: Of the original, in order, one for each run of a layer.
        copy: The disconnected network.
        mosaic: Of the same tiles.
        compare_numbers: Whether to compare numbers, or only shapes.
    """
    left = iter(calls)
    modules = dict(copy.named_modules(remove_duplicate=False))

    def compare(name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        call = next(left)
        tiles = _as_tiles(output, call.value.shape)
        if tiles is None or (compare_numbers and not _close(tiles, call.value)):
            raise _unsupported(call, "does not do to each tile of a mosaic what it does to images")

    with ExitStack() as hooks:
        for name in {call.name for call in calls}:
            hooks.enter_context(modules[name].register_forward_hook(partial(compare, name)))
        try:
            copy(mosaic)
        except UnsupportedError:
            raise
        except Exception as error:
            call = next(left, calls[-1])
            reason = str(error).partition("\n")[0]
            raise _unsupported(call, f"fails on mosaics: {reason}") from error


def _as_tiles(output: Tensor, shape: torch.Size) -> Tensor | None:
    """Return what a layer makes of a mosaic as that of its tiles; None if the shape is not so."""
    if output.shape == shape:
        return output
    if output.dim() == 2 and output.numel() == shape.numel():
        return output.view(shape)
    for axis in (1, 3):  # where the channels may be
        image = output.movedim(axis, 1) if output.dim() == 4 else output
        if image.dim() == 4 and not any(side % SIDE for side in image.shape[2:]):
            tiles = take_apart(image).movedim(1, axis)
            if tiles.shape == shape:
                return tiles
    return None


def _close(tiles: Tensor, expected: Tensor) -> bool:
    return bool((tiles - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _unsupported(call: _Call, reason: str) -> UnsupportedError:
    kind = type(call.module).__name__
    layer = f"layer {call.name} ({kind})" if call.name else f"the network ({kind})"
    return UnsupportedError(f"cannot disconnect the tiles of a mosaic: {layer} {reason}")


def disconnection(
    disconnect: Callable[[nn.Module, Tensor], nn.Module], batch: ExplainedBatch
) -> Scores:
    """Return the share of a map's magnitude in the tile whose class is explained.

    A map that lies in the tile has 1; noise, also signed, and constant maps have 1/4. A map that is
    0 everywhere scores as these do, and the reason says so.

    Args:
        disconnect: `difull` or `dipart`.
        batch: Images in the order of their mosaics, TILES per mosaic.

    Raises:
        UnsupportedError: if the network cannot be disconnected, or the explainer cannot explain it.
    """
    mosaics = tile(batch.x).repeat_interleave(TILES, dim=0)
    model = disconnect(batch.model, batch.x[:1])
    rows = torch.arange(len(mosaics), device=mosaics.device)
    places = rows % TILES
    changed = batch.change(model, _noise((1, *mosaics.shape[1:]), mosaics))
    maps = changed.explain(mosaics, batch.classes * places + batch.y)
    cells = cell_sums(maps.double().abs())
    total = cells.sum(dim=1)
    shares = torch.where(total == 0, CHANCE, cells[rows, places] / total)
    scores = Scores(shares.cpu().numpy())
    scores.note((total == 0).nonzero().flatten().tolist(), f"map is 0, scored {CHANCE:g}")
    return scores
