"""Write the page: its data, its templates, and the network itself where it runs in the page."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmn import __version__
from dmn.errors import DataError, OptionError, required
from dmn.explain import Explanation
from dmn.hub import Network
from dmn.hub.explaining import weights_sha256
from dmn.io.writing import write_whole
from dmn.view.maps import (
    Shown,
    describe_image,
    describe_methods,
    describe_saved,
    make_shown,
    packed,
    score_images,
)
from dmn.view.runtime import MEMBERS, NAME, VERSION
from dmn.viz.panels import DARK, INK, LIGHT, PHOTOGRAPH, SATURATED, data_uri, picture_png

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; script-src 'unsafe-inline'"
)
POLICY_LIVE = f"{POLICY} blob: 'wasm-unsafe-eval'"  # the runtime's script and its WebAssembly


def write_page(
    network: Network,
    path: str | Path,
    images: Mapping[str, Tensor],
    methods: Sequence[str] = ("SplitLRP",),
    *,
    layer: str | None = None,
    alphas: Sequence[float] = (),
    top: int = 10,
    runtime: Mapping[str, bytes] | None = None,
    explanations: Mapping[str, Explanation] | None = None,
) -> Path:
    """Write a page to look at images, classes and their maps, in one file that asks for no other.

    Classes, rivals, streams, methods and shifts are chosen in the page. The map against a rival is
    the difference of two maps, as of `dmn.explain.Against`.

    Args:
        network: The network. One that is no difference g - h is split.
        path: File to write, `.html`; it is written whole or not at all.
        images: Images (C, H, W) as the network takes them, by name; all of one size.
        methods: "SplitLRP", "SplitCAM" or "SplitGrad", or several.
        layer: Layer to read; None for the default of `dmn explain`.
        alphas: Shifts of a split network, which a slider then chooses from; none for the default.
        top: How many classes of each image have maps, the most probable ones.
        runtime: Of `dmn.view.runtime.browser_runtime`. With it the network runs in the page, on
            what is drawn there or put there, and explains that by the first method.
        explanations: Saved explanations of this network, by name, which are shown after the images.
            They are of any method, and of one class, or one against another.

    Returns:
        The path.

    Raises:
        DataError: if there is nothing to show, images differ in size, an explanation is of another
            network, or logits or maps are not finite.
        UnknownNameError: for a method or a layer that does not exist.
        OptionError: for an option that the network does not take.
        UnsupportedError: if the network cannot be split or exported; lists the operations.

    Examples:
        >>> import tempfile
        >>> from dmn.view import write_page
        >>> network = dmn.load("mnist_paired")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_page(network, f"{folder}/view.html", {"noise": torch.rand(1, 28, 28)})
        ...     "default-src 'none'" in path.read_text(encoding="utf-8")
        True
    """
    saved = explanations or {}
    examples = [*images.values(), *(each.x for each in saved.values())]
    if len({x.shape for x in examples}) != 1:
        raise DataError("images to view must be of one size, and at least one")
    if top < 1:
        raise OptionError(f"top is {top}; give at least 1")
    weights = weights_sha256(network)
    for name, each in saved.items():
        if each.network_sha256 != weights:
            raise DataError(f"{name}: explains other weights, of {each.network}")
    device = next((weight.device for weight in network.model.parameters()), "cpu")
    x = network.check(torch.stack([each.float() for each in examples]).to(device))
    shown = make_shown(network, x[:1], methods, layer, alphas)
    # first of all, as the network may have no such form
    parts = {} if runtime is None else _live_parts(network, shown, x[:1], runtime)
    entries = [*_describe_images(network, images, x, shown, top), *_describe_explanations(saved)]
    data = {
        "network": network.name,
        "classes": list(network.classes),
        "size": list(x.shape[1:]),
        "methods": describe_methods(shown),
        "images": entries,
        "style": _style(),
        "live": runtime is not None,
    }
    facts = {
        "network": f"{network.name}, SHA-256 {weights}",
        **{_name(each): _settings_text(each.method.settings) for each in shown},
        **{f"{name}, {each.method}": _settings_text(each.settings) for name, each in saved.items()},
        "made by": f"dmn {__version__}",
    }
    policy = POLICY if runtime is None else POLICY_LIVE
    return write_whole(path, _render(data, parts, policy, facts=facts, name=network.name))


def _describe_images(
    network: Network, images: Mapping[str, Tensor], x: Tensor, shown: Sequence[Shown], top: int
) -> list[dict[str, Any]]:
    """Return what the page shows of the images, which are the first ones of x."""
    if not images:
        return []
    x = x[: len(images)]
    parts = zip(images, network.restore(x), score_images(network, x, shown), x, strict=True)
    return [
        _entry(name, picture, scored, partial(describe_image, network, each[None], shown, top))
        for name, picture, scored, each in parts
    ]


def _describe_explanations(saved: Mapping[str, Explanation]) -> list[dict[str, Any]]:
    """Return what the page shows of saved explanations."""
    return [
        _entry(
            f"{name}: {each.method}, why {' and not '.join(_asked(each))}?",
            each.image,
            {},
            partial(describe_saved, each),
        )
        for name, each in saved.items()
    ]


def _entry(
    name: str, picture: Tensor, scores: Mapping[str, Any], describe: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Put together what the page shows of an image; what is at fault is named."""
    try:
        described = describe()
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    return {"name": name, "picture": data_uri(picture_png(picture)), "scores": scores, **described}


def _asked(explanation: Explanation) -> list[str]:
    """Return the names of the explained class and of its rival, if there is one."""
    asked = (explanation.target, explanation.rival)
    return [explanation.label(index) for index in asked if index is not None]


def _name(shown: Shown) -> str:
    """Return a method's name, with its alpha where several are shown."""
    return shown.method.name + ("" if shown.alpha is None else f", alpha {shown.alpha:g}")


def _settings_text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _style() -> dict[str, Any]:
    """Return the colours of `dmn.viz.overlay`, which the page draws with."""
    return {
        "light": asdict(LIGHT),
        "dark": asdict(DARK),
        "ink": INK,
        "photograph": PHOTOGRAPH,
        "saturated": SATURATED,
    }


def _live_parts(
    network: Network, shown: Sequence[Shown], x: Tensor, runtime: Mapping[str, bytes]
) -> dict[str, str]:
    """Return what runs in the page: the runtime, and the network with the first method."""
    from dmn.onnx import export  # brings the exporter, which takes seconds

    method, alpha = shown[0]
    options = {} if alpha is None else {"alpha": alpha}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.onnx")
        export(
            network,
            file,
            method.name,
            method.settings.get("layer"),
            streams=[*method.explainers],
            target=True,
            pixels=True,
            images=x,
            **options,
        )
        graph = file.read_bytes()
    script, wasm = (runtime[name] for name in MEMBERS)
    return {"runtime": packed(script), "wasm": packed(wasm), "graph": packed(graph)}


def _render(data: Mapping[str, Any], parts: Mapping[str, str], policy: str, **values: Any) -> str:
    """Render the template; all text is escaped."""
    with required("jinja2"):
        from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=ChoiceLoader([PackageLoader("dmn.view", "."), PackageLoader("dmn.viz", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # nothing in it can end the element that holds it
    content = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    licence = f"{NAME} {VERSION}" if parts else ""
    return environment.get_template("page.html.j2").render(
        data=Markup(content), parts=parts, licence=licence, policy=Markup(policy), **values
    )
