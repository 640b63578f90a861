"""The layers of a split network that hold images, and the one that SplitCAM reads."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from dmn.explain.layers import projects, two_images
from dmn.nn import Grid, GridFinder, Pair, Reading, Stream, predict_logits


class _Shapes(fx.Interpreter):
    """Runs a graph, and notes the shapes of some nodes in the order in which they run."""

    def __init__(self, network: fx.GraphModule, nodes: Mapping[str, str]) -> None:
        super().__init__(network)
        self.extra_traceback = False  # errors of guards are told as they are
        self.noted = set(nodes.values())
        self.shapes: dict[str, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.noted and isinstance(value, Tensor):
            self.shapes[n.name] = value.shape
        return value


def find_grids(network: fx.GraphModule, nodes: Mapping[str, str], x: Tensor) -> dict[str, Grid]:
    """Find the layers that hold images, and how they do.

    Args:
        network: A traced network.
        nodes: By the layers' names, the names of nodes.
        x: Images (B, C, H, W); one is enough.

    Returns:
        By the layers' names, in the order of `nodes`; see `dmn.nn.GridFinder`.
    """
    runner = _Shapes(network, nodes)
    x = x if len(x) > 1 else two_images(x)  # the forward may branch on how many there are
    with torch.no_grad():
        runner.run(x)
    finder = GridFinder(x.shape)
    grids = {name: finder.find(shape) for name, shape in runner.shapes.items()}
    found = {layer: grids.get(name) for layer, name in nodes.items()}
    return {layer: grid for layer, grid in found.items() if grid is not None}


def find_cam_layer(
    pair: Pair,
    network: fx.GraphModule,
    nodes: Mapping[str, str],
    grids: Mapping[str, Grid],
    x: Tensor,
) -> str:
    """Return the layer that SplitCAM reads by default.

    It is the last one whose sides are at least a quarter of the image's. In a network with tokens
    to the end, none of which has such a grid, it is the last one with the largest grid of tokens.
    Of tokens there, those count to which the predicted logit of x is sensitive.

    Args:
        pair: The split network.
        network: Its graph.
        nodes: By the layers' names, the names of nodes.
        grids: By the layers' names, their images.
        x: Images (B, C, H, W); the first one is used.
    """
    order = {node.name: place for place, node in enumerate(network.graph.nodes)}

    def last(layers: list[str]) -> str:  # of one node, the name of the outermost module
        return max(reversed(layers), key=lambda layer: order[nodes[layer]])

    large = [
        layer
        for layer, grid in grids.items()
        if all(4 * own >= side for own, side in zip(grid.sides, x.shape[2:], strict=True))
    ]
    tokens = {layer: grid.sides for layer, grid in grids.items() if grid.flat and grid.channels < 0}
    usual = last(large)
    if not tokens:
        return usual
    end = last([layer for layer, grid in grids.items() if prod(grid.sides) > 1])
    if not grids[end].flat:
        return usual
    if usual not in tokens and not tokens.keys().isdisjoint(large):
        return usual
    sides = tokens.get(usual) or max(tokens.values(), key=prod)
    candidates = [
        layer
        for layer, own in tokens.items()
        if own == sides and not _projects(network, nodes[layer])
    ]
    if not candidates:
        return usual
    with torch.no_grad():
        target = predict_logits(pair, x[:1]).argmax(dim=1)
    streams: tuple[Stream, ...] = ("g-h",)
    readings = pair.read(x[:1], target, candidates, streams=streams)
    return last(
        [layer for layer in candidates if _is_sensitive(readings[layer]["g-h"])] or candidates
    )


def read_images(grid: Grid, readings: Mapping[Any, Reading]) -> dict[Any, Reading]:
    """Return the readings of a layer as images (B, C, h, w), by stream."""
    return {
        stream: Reading(*(grid.to_image(part) for part in reading))
        for stream, reading in readings.items()
    }


def _projects(network: fx.GraphModule, name: str) -> bool:
    (node,) = (node for node in network.graph.nodes if node.name == name)
    module: nn.Module | None = None
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
    return module is not None and projects(module)


def _is_sensitive(reading: Reading) -> bool:
    return bool(reading.delta_p.any() or reading.delta_n.any())
