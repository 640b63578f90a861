"""Networks of mosaics that classify each tile apart: evidence outside of a tile is provably wrong.

DiFull runs every layer on each tile alone, so that no number of one tile depends on another. DiPart
runs the layers on the whole mosaic, and pools and classifies each tile alone. There a tile's class
depends on others through the receptive fields of the layers only, which overlap at the borders; in
a deep network they cover the mosaic.

Source: Rao, Böhle & Schiele 2022, "Towards better understanding attribution methods".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


class OfOneTile(nn.Module):
    """The first layer of the head, such as a global pooling, applied to one tile of a mosaic.

    Args:
        layer: The layer.
        place: Of the tile, from 0 to TILES - 1, row by row. The middle line of an odd side is of
            two tiles, and is left out.
    """

    def __init__(self, layer: nn.Module, place: int) -> None:
        super().__init__()
        self.layer = layer
        self.row, self.column = divmod(place, SIDE)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the tile becomes."""
        for axis, index in ((2, self.row), (3, self.column)):
            side = x.shape[axis]
            length = side // SIDE
            x = x.narrow(axis, index * (side - length), length)
        output: Tensor = self.layer(x)
        return output


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


def difull(model: nn.Module, example: Tensor, place: int) -> nn.Module:
    """Turn a network into one of mosaics that runs every layer on each tile alone.

    Args:
        model: A classifier whose convolutions and pooling layers are modules, and whose head begins
            with an `nn.AdaptiveAvgPool2d`, `nn.AdaptiveMaxPool2d` or `nn.Flatten`, such as ResNets,
            VGGs and plain networks. It is copied and not changed.
        example: Images of one tile (B, C, h, w); only the shape and the type matter.
        place: Of the tile to classify, from 0 to 3, row by row.

    Returns:
        The copy, in eval mode, from mosaics (B, C, 2h, 2w) to the logits of that tile, (B, K).
        Layers keep their names and, below the head, return mosaics. BatchNorm runs within the
        convolution before it, and leaves an identity in its place, so that it can still be folded.

    Raises:
        UnsupportedError: if the tiles cannot be disconnected; names the layer where that fails.

    Examples:
        >>> from dmn.evaluate.grid import tile
        >>> from dmn.models import PlainCNN
        >>> net, images = PlainCNN(1, widths=(4, 8), num_classes=3).eval(), torch.rand(4, 1, 28, 28)
        >>> logits = difull(net, images, place=2)(tile(images))
        >>> logits.shape, torch.allclose(logits, net(images)[2:3], atol=1e-6)
        (torch.Size([1, 3]), True)
    """
    return _disconnect(model, example, place, full=True)


def dipart(model: nn.Module, example: Tensor, place: int) -> nn.Module:
    """Turn a network into one of mosaics that pools and classifies one tile alone.

    Args:
        model: As for `difull`.
        example: As for `difull`.
        place: As for `difull`.

    Returns:
        As from `difull`, with the same names.

    Raises:
        UnsupportedError: if there is no head that can be applied to one tile; names a layer.

    Examples:
        >>> from dmn.models import PlainCNN
        >>> net = PlainCNN(1, widths=(4, 8), num_classes=3)
        >>> dipart(net, torch.rand(1, 1, 28, 28), place=0)(torch.rand(5, 1, 56, 56)).shape
        torch.Size([5, 3])
    """
    return _disconnect(model, example, place, full=False)


def _disconnect(model: nn.Module, example: Tensor, place: int, full: bool) -> nn.Module:
    tiles = _noise((TILES, *example.shape[1:]), example)
    copy = deepcopy(model).eval()
    with torch.no_grad(), eval_mode(model):
        calls = _record(model, tiles)
        leaves = [call for call in calls if not any(True for _ in call.module.children())]
        first = _head(leaves)
        below = leaves[: leaves.index(first)]
        with_norm = _wrap_layers(copy, below) if full else set()
        _replace(copy, first.name, partial(OfOneTile, place=place))
        checked = [call for call in calls if call.name not in with_norm]
        if not full:
            _refuse_other_pools(below)
            checked = checked[checked.index(first) :]
        _check(checked, copy, tile(tiles), place, compare_numbers=full)
    return copy


def _noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return the same noise for all images of a shape, so that no copy depends on the images."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(like)


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


def _head(leaves: list[_Call]) -> _Call:
    """Return the first layer of the head: the last adaptive pooling, or else the flattening."""
    images = [call for call in leaves if call.input.dim() == 4]
    pools = [call for call in images if isinstance(call.module, _POOLS)]
    flattens = [call for call in images if isinstance(call.module, nn.Flatten)]
    if not pools and not flattens:
        modules = "AdaptiveAvgPool2d, AdaptiveMaxPool2d or Flatten"
        raise _unsupported(leaves[-1], f"comes after no {modules} module of images; give it one")
    return pools[-1] if pools else flattens[0]


def _refuse_other_pools(below: list[_Call]) -> None:
    """Refuse a network that pools whole images below its head, or has several heads."""
    for call in below:
        if isinstance(call.module, _POOLS):
            raise _unsupported(call, "pools the whole mosaic, and is not the head's only pooling")


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


def _check(
    calls: list[_Call], copy: nn.Module, mosaic: Tensor, place: int, compare_numbers: bool
) -> None:
    """Compare layers on a mosaic with the original's on its tiles, and name the first that differs.

    Args:
        calls: Of the original, in order, one for each run of a layer.
        copy: The disconnected network.
        mosaic: Of the same tiles.
        place: Of the tile that the copy classifies.
        compare_numbers: Whether to compare numbers, or only shapes.
    """
    left = iter(calls)
    modules = dict(copy.named_modules(remove_duplicate=False))

    def compare(name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        call = next(left)
        equal = any(
            one.shape == other.shape and (not compare_numbers or _close(one, other))
            for one, other in _comparable(output, call.value, place)
        )
        if not equal:
            raise _unsupported(call, "does not do to each tile of a mosaic what it does to images")

    with ExitStack() as hooks:
        for name in {call.name for call in calls}:
            hooks.enter_context(modules[name].register_forward_hook(partial(compare, name)))
        try:
            copy(mosaic)
        except UnsupportedError:
            raise
        except Exception as error:  # of whatever module meets a size that it was not made for
            call = next(left, calls[-1])
            reason = str(error).partition("\n")[0]
            raise _unsupported(call, f"fails on mosaics: {reason}") from error


def _comparable(output: Tensor, of_tiles: Tensor, place: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what may have to be equal: of the head, of layers on tiles, and of those on mosaics."""
    yield output, of_tiles[place : place + 1]
    yield output, of_tiles
    for axis in (1, 3):  # where the channels may be
        if output.dim() == 4:
            image = output.movedim(axis, 1)
            if not any(side % SIDE for side in image.shape[2:]):
                yield take_apart(image).movedim(1, axis), of_tiles


def _close(tiles: Tensor, expected: Tensor) -> bool:
    return bool((tiles - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _unsupported(call: _Call, reason: str) -> UnsupportedError:
    kind = type(call.module).__name__
    layer = f"layer {call.name} ({kind})" if call.name else f"the network ({kind})"
    return UnsupportedError(f"cannot disconnect the tiles of a mosaic: {layer} {reason}")


def disconnection(
    disconnect: Callable[[nn.Module, Tensor, int], nn.Module], batch: ExplainedBatch
) -> Scores:
    """Return the share of a map's magnitude in the tile that is classified.

    A map that lies in the tile has 1; noise, also signed, and constant maps have 1/4. A map that is
    0 everywhere scores as these do, and the reason says so.

    Args:
        disconnect: `difull` or `dipart`.
        batch: Images in the order of their mosaics, TILES per mosaic.

    Raises:
        UnsupportedError: if the network cannot be disconnected, or the explainer cannot explain it.
    """
    mosaics, classes = tile(batch.x), batch.y.view(-1, TILES)
    example = _noise((1, *mosaics.shape[1:]), mosaics)
    shares = torch.empty(len(mosaics), TILES, dtype=torch.float64)
    empty = torch.zeros_like(shares, dtype=torch.bool)
    for place in range(TILES):
        changed = batch.change(disconnect(batch.model, batch.x[:1], place), example)
        cells = cell_sums(changed.explain(mosaics, classes[:, place]).double().abs()).cpu()
        total = cells.sum(dim=1)
        shares[:, place] = cells[:, place] / total
        empty[:, place] = total == 0
    shares[empty] = CHANCE
    scores = Scores(shares.flatten().numpy())
    scores.note(empty.flatten().nonzero().flatten().tolist(), f"map is 0, scored {CHANCE:g}")
    return scores
