"""Export a network with its explanation, and compare the file with torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmn import __version__
from dmn.errors import NotEqualError, OptionError, UnsupportedError
from dmn.explain import MethodSpec, find_method
from dmn.explain.target import class_names
from dmn.hub import Network, load
from dmn.hub.explaining import Method, make_method, stage_of, weights_sha256
from dmn.hub.preprocess import per_channel
from dmn.io.options import require_output
from dmn.io.writing import write_whole
from dmn.nn import Stream
from dmn.onnx.graph import OPSET, shared_computations, to_onnx
from dmn.onnx.parity import BATCHES, Parity, check_parity
from dmn.onnx.program import explanation, export_program

IMAGES = max(BATCHES)


def export(
    network: Network | str | Path,
    path: str | Path,
    method: str = "SplitLRP",
    layer: str | None = None,
    *,
    streams: Sequence[Stream] | None = None,
    target: bool = False,
    pixels: bool = False,
    images: Tensor | None = None,
    **options: Any,
) -> Parity | None:
    """Write a network and its explanation as one ONNX graph, from images to logits and maps.

    The graph has opset 18 and takes any number of images of one size, as `image` (B, C, H, W),
    float32. It returns `logits` (B, K) and `map` (B, 1, H, W) or, if there are several streams,
    `map_g`, `map_h` and `map_g-h`. Its metadata say what it was made of: `classes`, `method`,
    `options`, `network`, `weights` (a hash), `size`, `mean`, `std`, versions, ..., each as JSON.

    If onnxruntime is installed, the graph is compared with torch before the file is written.

    Args:
        network: The network, or what `dmn.load` takes. One that is no difference g - h is split.
        path: File to write, `.onnx`; it is written whole or not at all.
        method: "SplitLRP", "SplitCAM" or "SplitGrad".
        layer: Layer to read, such as "input"; None for the method's default.
        streams: Any of "g", "h" and "g-h"; by default the method's own, of trained pairs "g-h".
        target: Whether the graph takes class indices as a second input, `target` (B,), int64;
            otherwise it explains the predicted class.
        pixels: Whether `image` is in [0, 1], and the graph normalises it by the network's mean and
            standard deviation; otherwise it takes what `network.transform` returns.
        images: Images (B, C, H, W) as the network takes them, to compare on; by default random.
            Their size is that of the graph.
        **options: Further options of the method; see `dmn.explain.SplitExplainer`. By default those
            of `dmn explain`.

    Returns:
        The largest differences, or None if onnxruntime is not installed.

    Raises:
        MissingPackageError: if onnx or onnxscript is not installed.
        UnknownNameError: if the method is not one of these three, or for an unknown layer.
        UnsupportedError: if the network cannot be split, or an operation has no counterpart in
            ONNX; lists them.
        NotEqualError: if onnxruntime computes something else than torch; nothing is written.
        OptionError: names the option that cannot be as it is, and says what can.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> network = dmn.hub.Network("mine", net, ("a", "b", "c"), (1, 8, 8), None, None, None, {})
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     parity = export(network, f"{folder}/mine.onnx", target=True)
        >>> parity.holds
        True
    """
    require_output("path", str(path), ".onnx")
    spec = find_method(method, "split")
    shared_computations()  # or it would say after minutes that a package is missing
    if not isinstance(network, Network):
        network = load(network)
    x = _images(network) if images is None else images
    _require_single_precision(network, x)
    made = _make_method(network, x[:1], spec, layer, streams, options)
    explainer: Any = next(iter(made.explainers.values()))
    chosen = tuple(made.explainers)
    normalise = _Normalise(network) if pixels else None
    program = export_program(explainer, x, chosen, target=target, normalise=normalise)
    outputs = [f"map_{each}" for each in chosen] if len(chosen) > 1 else ["map"]
    about = {
        "network": network.name,
        "weights": weights_sha256(network),
        "classes": network.classes or class_names(network.model),
        "method": spec.name,
        "options": made.settings,
        "streams": chosen,
        "input": "pixels" if pixels else "normalised",
        "target": "input" if target else "predicted",
        "size": tuple(x.shape[1:]),
        "mean": network.mean,
        "std": network.std,
        "bgr": network.bgr,
        "versions": {"dmn": __version__, "torch": torch.__version__, "opset": OPSET},
    }
    content = to_onnx(program, ["image", "target"][: 1 + target], ["logits", *outputs], about)
    parity = None
    if find_spec("onnxruntime"):
        given = network.restore(x).clamp(0, 1) if pixels else x
        parity = check_parity(content, explanation(explainer, chosen, normalise), given)
        if not parity.holds:
            raise NotEqualError(f"{os.fspath(path)} is not written:", *str(parity).splitlines())
    write_whole(path, content)
    return parity


def _make_method(
    network: Network,
    x: Tensor,
    spec: MethodSpec,
    layer: str | None,
    streams: Sequence[Stream] | None,
    options: dict[str, Any],
) -> Method:
    """Make the method as `dmn explain` does, for one stream where none are named."""
    given = options if layer is None else {**options, "layer": layer}
    if not streams and network.is_pair and not network.is_split:
        streams = ("g-h",)
    return make_method(network, x, spec, stage_of(network, x, layer), streams, given)


class _Normalise:
    """From images in [0, 1] to what a network takes."""

    def __init__(self, network: Network) -> None:
        self.mean, self.std = per_channel(network.mean, 0.0), per_channel(network.std, 1.0)
        self.bgr = network.bgr

    def __call__(self, image: Tensor) -> Tensor:
        return ((image.flip(1) if self.bgr else image) - self.mean) / self.std


def _images(network: Network) -> Tensor:
    """Draw images of the network's size, with a seed."""
    if network.size is None:
        raise OptionError(f"the size of {network.name}'s images is not known; give it (size)")
    random = torch.Generator().manual_seed(0)
    return _Normalise(network)(torch.rand(IMAGES, *network.size, generator=random))


def _require_single_precision(network: Network, x: Tensor) -> None:
    kinds = {each.dtype for each in network.model.state_dict().values() if each.is_floating_point()}
    others = {*kinds, x.dtype} - {torch.float32}
    if others:
        named = ", ".join(sorted(map(str, others)))
        raise UnsupportedError(
            f"weights or images of {named} cannot be exported; use torch.float32"
        )
