"""Try the split and every method on all classifiers of torchvision, for docs/architectures.md.

    python recipes/architectures.py --page docs/architectures.md    # writes its tables anew
    python recipes/architectures.py --families resnet squeezenet    # prints theirs
    python recipes/architectures.py --smallest 1                    # of each family

Weights are random, those of BatchNorm too. Images are two of noise of 64 pixels (70 for vit_h_14,
96 for Inception, one of 224 for MaxViT). Methods run on one network of each kind, with few steps.
Nothing is loaded from elsewhere. In a page, rows of families that are not measured stay. All of it
takes long, and memory for several copies of the largest network, one in float64; --smallest limits
it.
"""

import argparse
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import dmn.baselines  # noqa: F401 - registers the post-hoc methods
from dmn.errors import DmnError
from dmn.explain import list_methods
from dmn.explain.layers import last_stage
from dmn.explain.registry import MethodSpec
from dmn.graph.nodes import place_and_kind
from dmn.io.writing import write_whole
from dmn.split import split

FAMILIES = (
    *("alexnet", "convnext", "densenet", "efficientnet", "googlenet", "inception", "maxvit"),
    *("mnasnet", "mobilenet_v2", "mobilenet_v3", "regnet_x", "regnet_y", "resnet", "resnext"),
    *("shufflenet_v2", "squeezenet", "swin", "vgg", "vit", "wide_resnet"),
)
SIDES = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 70}  # the others: 64
BUILT_WITH: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception": {"init_weights": False},
}
TRIED = ("resnet18", "mobilenet_v3_small", "convnext_tiny", "swin_t", "vit_b_16")  # by methods
FEW = {"steps": 4, "samples": 2, "window": 0.25, "stride": 1.0, "cells": 4}  # options of methods
SPLIT_HEAD = ("family", "networks", "predictions", "least weight", "claimed", "largest p + n")
HELD_HEAD = (
    *("family", "networks", "predictions", "held", "F and the gradient"),
    *("least weight", "claimed at an image", "largest p + n"),
)
MAPS_HEAD = (
    *("family", "g and h, alpha 0", "g and h, alpha 0.4", "classes, alpha 0"),
    *("classes, alpha auto", "classes at the last image, alpha auto"),
)


class Measured(NamedTuple):
    """What the certificate of a network says.

    Attributes:
        held: Kinds of operations whose coefficients are held at each image.
        gradient_cosine: Of F and the network's gradient; 1 if nothing is held.
        prediction: Largest difference of a logit from the original's.
        least_weight: Least of the weights of g and h.
        of_g_and_h: Cosines of their maps, with alpha 0 and 0.4.
        of_classes: Cosines of the relevance of classes: at the image with alpha 0 and "auto", and
            at the last layer that is an image with "auto".
        claimed: What holds for g and h in the literal form, with what is held as it is.
        growth: Largest p + n of a logit in the literal form, as its binary logarithm.
    """

    held: tuple[str, ...] = ()
    gradient_cosine: float = 1.0
    prediction: float = 0.0
    least_weight: float = 0.0
    of_g_and_h: tuple[float, ...] = ()
    of_classes: tuple[float, ...] = ()
    claimed: str = ""
    growth: float = 0.0


def family(name: str) -> str:
    """Return the family of a network."""
    return next(each for each in FAMILIES if name.startswith(each))


def members(kind: str) -> list[str]:
    """Return the networks of a family, the smallest first."""
    names = torchvision.models.list_models(module=torchvision.models)
    return sorted((name for name in names if family(name) == kind), key=parameters)


def parameters(name: str) -> int:
    """Return the number of a network's parameters, as torchvision gives it."""
    count: int = next(iter(torchvision.models.get_model_weights(name))).meta["num_params"]
    return count


def build(name: str) -> nn.Module:
    """Return a network with random weights and random statistics of BatchNorm."""
    torch.manual_seed(0)
    options = dict(BUILT_WITH.get(family(name), {}))
    if family(name) == "vit":
        options["image_size"] = SIDES.get(name, 64)
    model: nn.Module = torchvision.models.get_model(name, **options).eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
            layer.running_mean.normal_(0.0, 0.3)
            layer.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
            layer.weight.uniform_(0.3, 1.5)
            layer.bias.normal_(0.0, 0.5)
    if family(name) == "vit":  # whose logits start at 0
        model.get_submodule("heads.head").weight.normal_(0.0, 0.02)  # type: ignore[operator]
    return model


def noise(name: str) -> Tensor:
    """Return two images of noise, or one if they are large."""
    side = SIDES.get(name, 64)
    return torch.randn(
        1 if side > 100 else 2, 3, side, side, generator=torch.Generator().manual_seed(1)
    )


def measure(name: str) -> Measured:
    """Split a network, and measure what its certificate says."""
    model, x = build(name), noise(name)
    ours = split(model, x)
    certificate = ours.certificate(x)
    at_zero, auto = (certificate.class_cosines[alpha] for alpha in ("0", "auto"))
    *_, last = auto.values()
    kinds = sorted({place_and_kind(each)[1] for each in certificate.held})
    cosine = certificate.gradient_cosine
    del ours
    literal = split(model, x, pool="convex", theta=1.0)
    monotone, convex = literal.claims(x)
    *_, logits = literal.magnitudes(x).values()
    return Measured(
        held=tuple(kinds),
        gradient_cosine=1.0 if cosine is None else cosine,
        prediction=math.inf if certificate.prediction is None else certificate.prediction,
        least_weight=certificate.least_weight,
        of_g_and_h=tuple(certificate.cosines.values()),
        of_classes=(at_zero["input"], auto["input"], last),
        claimed=" and ".join(["monotone"] * monotone + ["convex"] * convex) or "nothing",
        growth=math.log2(float(logits.tensor)) + logits.exponent,
    )


def spread(values: Iterable[float], form: str) -> str:
    """Return the least and the largest of some values, or one if they look the same."""
    numbers = list(values)
    return " to ".join(dict.fromkeys(format(each, form) for each in (min(numbers), max(numbers))))


def counted(kind: str, measured: Sequence[Measured]) -> str:
    """Return how many networks of a family were measured, and of how many if not of all."""
    total = len(members(kind))
    return str(total) if len(measured) == total else f"{len(measured)} of {total}"


def split_row(kind: str, measured: Sequence[Measured]) -> list[str]:
    """Return what holds for a family that is split everywhere."""
    family_, networks, predictions, _, _, *others = held_row(kind, measured)
    return [family_, networks, predictions, *others]


def held_row(kind: str, measured: Sequence[Measured]) -> list[str]:
    """Return what holds for a family that is split at each image."""
    worst = max(each.prediction for each in measured)
    kinds = sorted({each for one in measured for each in one.held})
    return [
        kind,
        counted(kind, measured),
        "equal" if worst == 0 else f"differ by {worst:g}",
        ", ".join(f"`{each}`" for each in kinds),
        spread((each.gradient_cosine for each in measured), ".3f"),
        f"{min(each.least_weight for each in measured):g}",
        ", ".join(sorted({each.claimed for each in measured})),
        f"2^{spread((each.growth for each in measured), '.0f')}",
    ]


def maps_row(kind: str, measured: Sequence[Measured]) -> list[str]:
    """Return how much alike the maps of a family are."""
    cosines = zip(*(each.of_g_and_h + each.of_classes for each in measured), strict=True)
    return [kind, *(spread(values, ".3f") for values in cosines)]


def runs(spec: MethodSpec, name: str) -> bool:
    """Return whether a method explains a network by a map of numbers, or refuses it."""
    model, x = build(name), noise(name)[:1]
    options: dict[str, Any] = {key: value for key, value in FEW.items() if key in spec.options}
    try:
        if spec.kind == "split":
            maps = spec.factory(split(model, x))(x)
        else:
            if spec.needs_layer:
                options["layer"] = last_stage(model, x)
            maps = spec.factory(model, **options)(x)
    except DmnError:
        return False
    return maps.shape == (1, 1, *x.shape[2:]) and bool(torch.isfinite(maps).all())


def method_row(spec: MethodSpec, names: Sequence[str]) -> list[str]:
    """Return whether a method explains each of some networks."""
    row = [spec.name, *("yes" if runs(spec, name) else "refused" for name in names)]
    print(*row, flush=True)
    return row


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(families: Sequence[str], smallest: int | None, tried: Sequence[str]) -> dict[str, str]:
    """Measure the networks of some families, and try methods; returns tables by name."""
    split_rows, held_rows, maps_rows = [], [], []
    for kind in families:
        measured = []
        for name in members(kind)[:smallest]:
            measured.append(measure(name))
            print(f"{name}: {measured[-1]}", flush=True)
        if any(each.held for each in measured):
            held_rows.append(held_row(kind, measured))
        else:
            split_rows.append(split_row(kind, measured))
        maps_rows.append(maps_row(kind, measured))
    methods = [method_row(spec, tried) for spec in list_methods("split", "post-hoc")]
    return {
        "split": markdown(SPLIT_HEAD, split_rows),
        "held": markdown(HELD_HEAD, held_rows),
        "maps": markdown(MAPS_HEAD, maps_rows),
        "methods": markdown(("method", *tried), methods),
    }


def written(page: str, made: dict[str, str]) -> str:
    """Return a page with new tables between its comments `<!-- table: NAME -->`, `<!-- end -->`."""
    for name, table in made.items():
        begin, end = f"<!-- table: {name} -->\n\n", "\n\n<!-- end -->"
        before, found, rest = page.partition(begin)
        if not found or end not in rest:
            raise SystemExit(f"the page has no comments for the table {name}")
        old, _, after = rest.partition(end)
        new = table if name == "methods" else merged(old, table)
        page = before + begin + new + end + after
    return page


def merged(old: str, table: str) -> str:
    """Return a table of families with the rows of an old one for families that are not in it."""
    head, line, *rows = table.splitlines()
    by_family = {row.split("|")[1].strip(): row for row in [*old.splitlines(), *rows]}
    return "\n".join([head, line, *(by_family[each] for each in FAMILIES if each in by_family)])


def main(args: Sequence[str] | None = None) -> None:
    """Measure, and print the tables or write them into a page."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument(
        "--families", nargs="+", choices=FAMILIES, default=FAMILIES, help="default: all"
    )
    parser.add_argument("--smallest", type=int, help="so many of each family; default: all")
    parser.add_argument(
        "--tried", nargs="+", default=TRIED, help="networks for the methods; default: %(default)s"
    )
    parser.add_argument("--page", type=Path, help="whose tables to write anew; default: print them")
    options = parser.parse_args(args)
    warnings.simplefilter("ignore")  # of other libraries, about hooks
    made = tables(options.families, options.smallest, options.tried)
    if options.page is None:
        print(*made.values(), sep="\n\n")
    else:
        page = options.page.read_text(encoding="utf-8")
        write_whole(options.page, written(page, made))


if __name__ == "__main__":
    main()
