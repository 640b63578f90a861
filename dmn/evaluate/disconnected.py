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
from dmn.evaluate.calls import Call, record_calls, unsupported
from dmn.evaluate.grid import SIDE, TILES, cell_sums, tile
from dmn.evaluate.heads import POOLS, find_heads, mark_head
from dmn.evaluate.mosaics import OfOneTile, OnTiles, take_apart
from dmn.nn import eval_mode

CHANCE = 1 / TILES
_TOLERANCE = 1e-2  # of how much tiles differ in a layer; what leaks from other tiles is larger
_ROUNDING = 1e-5  # of the largest number of a layer
_SPATIAL = (  # which let positions depend on their neighbours, or on the place in the image
    *(nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.GroupNorm),
    *(nn.InstanceNorm2d, nn.Upsample, nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d),
    *(nn.ReplicationPad2d, nn.CircularPad2d),
)


def difull(model: nn.Module, example: Tensor, place: int) -> nn.Module:
    """Turn a network into one of mosaics that runs every layer on each tile alone.

    Args:
        model: A classifier whose layers hold images up to its head: a convolutional network, also
            with gates such as squeeze-and-excitation, or a difference network. It is copied and
            not changed.
        example: Images of one tile (B, C, h, w); only the shape and the type matter.
        place: Of the tile to classify, from 0 to 3, row by row.

    Returns:
        The copy, in eval mode, from mosaics (B, C, 2h, 2w) to the logits of that tile, (B, K).
        Layers keep their names and, below the head, return mosaics; those within a block that only
        as a whole can see each tile alone, such as a gate, return tiles. BatchNorm runs within the
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
        model: As for `difull`, without gates.
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


class _Fault(NamedTuple):
    """Where a copy fails first, and the error that says how."""

    call: Call
    error: UnsupportedError


def _disconnect(model: nn.Module, example: Tensor, place: int, full: bool) -> nn.Module:
    tiles = _noise((TILES, *example.shape[1:]), example)
    tiles *= torch.arange(1, TILES + 1).to(tiles).view(-1, 1, 1, 1) / TILES  # so that means differ
    with torch.no_grad(), eval_mode(model):
        calls = record_calls(model, tiles)
        heads = find_heads(calls)
        if not heads:
            model = mark_head(model, calls)
            calls = record_calls(model, tiles)
            heads = find_heads(calls)
        if not full:
            _refuse_other_pools(calls, heads)
        whole = _gates(calls, heads) if full else []
        fault = None
        while True:
            copy = deepcopy(model).eval()
            checked = _replace_layers(copy, calls, heads, whole, full)
            for name in {head.name for head in heads}:
                _replace(copy, name, partial(OfOneTile, place=place))
            last, fault = fault, _find_fault(checked, copy, tile(tiles), place, full)
            if fault is None:
                return copy
            if last and last.call.is_within(fault.call):
                fault = fault._replace(error=last.error)  # of the smallest block that fails
            if not full or (block := _block_around(fault.call, calls, heads, whole)) is None:
                raise fault.error
            whole = [*(one for one in whole if not one.is_within(block)), block]


def _noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return the same noise for all images of a shape, so that no copy depends on the images."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(like)


def _replace_layers(
    copy: nn.Module, calls: list[Call], heads: list[Call], whole: list[Call], full: bool
) -> list[Call]:
    """Let layers below the heads of a copy see each tile alone, if all are to.

    Args:
        copy: The network that is changed.
        calls: Of the original.
        heads: Their first layers.
        whole: Blocks that see each tile alone as a whole.
        full: Whether layers see each tile alone, or the heads only.

    Returns:
        The calls whose results the copy should share.
    """
    if not full:
        return [call for call in calls if call in heads or call.value.dim() != 4]
    outside = [call for call in calls if not any(call.is_within(block) for block in whole)]
    below = outside[: outside.index(heads[-1])]
    with_norm = _wrap_layers(
        copy, [call for call in below if call.is_leaf and call not in (*heads, *whole)]
    )
    for block in whole:
        _replace(copy, block.name, OnTiles)
    return [call for call in outside if call.name not in with_norm]


def _refuse_other_pools(calls: list[Call], heads: list[Call]) -> None:
    """Refuse a network that pools whole images elsewhere than in its heads."""
    for call in calls:
        if isinstance(call.module, POOLS) and call not in heads:
            raise unsupported(call, "pools the whole mosaic, and is not the head's only pooling")


def _gates(calls: list[Call], heads: list[Call]) -> list[Call]:
    """Return the smallest blocks that use a pooling of their images and return images."""
    pools = (call for call in calls if isinstance(call.module, POOLS) and call not in heads)
    found = (_block_around(pool, calls, heads, [pool]) for pool in pools)
    return [block for block in dict.fromkeys(found) if block]


def _block_around(
    failed: Call, calls: list[Call], heads: list[Call], refused: list[Call]
) -> Call | None:
    """Return the smallest block, or layer, around a failure that can see each tile alone."""
    for call in calls:
        if call is not failed and not failed.is_within(call):
            continue
        has_head = any(head is call or head.is_within(call) for head in heads)
        if call.name and call.maps_images and not has_head and call not in refused:
            return call
    return None


def _wrap_layers(copy: nn.Module, calls: list[Call]) -> set[str]:
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


def _find_fault(
    calls: list[Call], copy: nn.Module, mosaic: Tensor, place: int, compare_numbers: bool
) -> _Fault | None:
    """Compare layers on a mosaic with the original's on its tiles, and find the first that differs.

    Args:
        calls: Of the original, in order, one for each run of a layer.
        copy: The disconnected network.
        mosaic: Of the same tiles.
        place: Of the tile that the copy classifies.
        compare_numbers: Whether to compare numbers, or only shapes.
    """
    left = iter(calls)
    modules = dict(copy.named_modules(remove_duplicate=False))
    different: list[Call] = []
    running: list[str] = []
    failure = None

    def enter(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        running.append(name)

    def compare(name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        running.pop()
        call = next(left)
        allowed = _allowed(call.value)
        if not any(
            one.shape == other.shape
            and (not compare_numbers or (one - other).abs().max() <= allowed)
            for one, other in _comparable(output, call.value, place)
        ):
            different.append(call)

    with ExitStack() as hooks:
        for name in {call.name for call in calls}:
            hooks.enter_context(modules[name].register_forward_pre_hook(partial(enter, name)))
            hooks.enter_context(modules[name].register_forward_hook(partial(compare, name)))
        try:
            copy(mosaic)
        except Exception as error:  # of whatever module meets a size that it was not made for
            call = next(call for call in calls if call.name == running[-1])
            reason = str(error).partition("\n")[0]
            failure = _Fault(call, unsupported(call, f"fails on mosaics: {reason}"))
            failure.error.__cause__ = error
    if different:
        reason = "does not do to each tile of a mosaic what it does to images"
        return _Fault(different[0], unsupported(different[0], reason))
    return failure


def _comparable(output: Tensor, of_tiles: Tensor, place: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what may have to be equal: of the head, of layers on tiles, and of those on mosaics."""
    yield output, of_tiles[place : place + 1]
    yield output, of_tiles
    for axis in (1, 3):  # where the channels may be
        if output.dim() == 4:
            image = output.movedim(axis, 1)
            if not any(side % SIDE for side in image.shape[2:]):
                yield take_apart(image).movedim(1, axis), of_tiles


def _allowed(of_tiles: Tensor) -> Tensor:
    """Return the largest difference from the original's results that rounding may make."""
    spread = (of_tiles - of_tiles.mean(dim=0)).abs().max()
    return torch.maximum(_TOLERANCE * spread, _ROUNDING * of_tiles.abs().max())


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
