"""Measure what maps of split networks cost, beside a plain gradient and other methods.

    pip install -e '.[compare,onnx]'
    python recipes/benchmark.py
    python recipes/benchmark.py --only main --models resnet18 --batches 1 --no-literal

Weights are random: neither seconds nor memory depend on them. Seconds are medians of rounds, each
of which runs every method once, and ratios to the gradient medians of the quotients within a round.
Setting a method up (the split, zennit's hooks) is not timed. The literal form, slow, has one round.

Memory is that of one call, in a process of its own after a small network has warmed it up: "above"
is its peak less what was held when network and images were made, "peak" all of it. On the CPU it is
resident memory, with freed memory given back at once, and needs Linux; on CUDA what was allocated.
"""

import argparse
import csv
import ctypes
import gc
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from functools import partial
from importlib import import_module, metadata, util
from itertools import chain, product
from multiprocessing import cpu_count, get_context
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from torch import Tensor, cuda, nn
from torch.nn.functional import one_hot
from torchvision.models import list_models

from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.hub import load
from dmn.onnx import export_program
from dmn.onnx.graph import to_onnx
from dmn.onnx.parity import open_session
from dmn.split import split

Call = Callable[[Tensor, Tensor], object]  # explains images (B, 3, H, W) for classes (B,)
Case = tuple[str, int, int]  # network, side of its images, number of them
Rows = dict[tuple[Case, str], dict[str, Any]]  # what was measured of a method
Job = tuple[Callable[..., Rows], Case, list[str]]  # what measures, of what, which methods


def zennit_epsilon_plus(canonizers: list[Any]) -> Any:
    """Return zennit's EpsilonPlus."""
    return import_module("zennit.composites").EpsilonPlus(canonizers=canonizers)


def zennit_gamma(canonizers: list[Any]) -> Any:
    """Return Gamma in convolutions, Epsilon in linear layers: zennit has no such composite."""
    composites, rules, types = (
        import_module(f"zennit.{name}") for name in ("composites", "rules", "types")
    )
    layers = [((types.Convolution,), rules.Gamma(0.25)), ((nn.Linear,), rules.Epsilon())]
    return composites.LayerMapComposite([*composites.layer_map_base(), *layers], canonizers)


def zennit(model: nn.Module, compose: Callable[[list[Any]], Any]) -> Call:
    """Register a composite; the canonizer of ResNets does for a VGG what a VGG's does."""
    model = deepcopy(model)  # the canonizer changes it
    composite = compose([import_module("zennit.torchvision").ResNetCanonizer()])
    composite.register(model)
    attributor = import_module("zennit.attribution").Gradient(model, composite)
    return lambda x, target: attributor(x, one_hot(target, 1000).to(x))


def literal(model: nn.Module, x: Tensor, target: Tensor) -> object:
    """Go by the definition, four convolutions a layer, in float64; for g, as the others."""
    tests = Path(__file__).resolve().parents[1] / "tests"
    sys.path.insert(0, str(tests))
    streams = import_module("literal_split").Literal(model, x.double(), alpha=0.4)
    return streams.back(one_hot(target, 1000).to(streams.p), torch.zeros_like(streams.p))


def gradient(model: nn.Module) -> Call:
    """Return the plain gradient of the class's logit."""

    def explain(x: Tensor, target: Tensor) -> object:
        logits = model(x).gather(1, target[:, None])
        return torch.autograd.grad(logits.sum(), x)

    return explain


def grad_cam(model: nn.Module, layer: str) -> Call:
    """Return captum's Grad-CAM at a layer."""
    attr = import_module("captum.attr")
    explain: Call = attr.LayerGradCam(model, model.get_submodule(layer)).attribute
    return explain


def compiled_splitlrp(model: nn.Module) -> Call:
    """Return SplitLRP with its elementwise operations fused."""
    pair = split(model)
    pair.compile()
    return SplitLRP(pair)


def exported_splitlrp(model: nn.Module) -> Call:
    """Return SplitLRP as an ONNX graph in onnxruntime, exported at the first call, on the CPU."""
    explainer = SplitLRP(split(model))
    sessions: list[Any] = []

    def explain(x: Tensor, target: Tensor) -> object:
        if not sessions:
            program = export_program(explainer, x, target=True)
            graph = to_onnx(program, ["image", "target"], ["logits", "map"], {})
            sessions.append(open_session(graph))
        feed = {"image": x.detach().numpy(), "target": target.numpy()}
        return sessions[0].run(None, feed)

    return explain


# Each makes a method of a network, given the names of a middle layer and of the last one.
SPLITS: dict[str, Callable[[nn.Module, str, str], Call]] = {
    "gradient": lambda model, middle, last: gradient(model),
    "SplitGrad": lambda model, middle, last: SplitGrad(split(model), "input", "g", "p", alpha=0.4),
    "SplitCAM": lambda model, middle, last: SplitCAM(split(model), middle, "g", "p", alpha=0.4),
    "SplitLRP": lambda model, middle, last: SplitLRP(split(model)),
}
LITERAL, COMPILED = "literal float64", "SplitLRP compiled"
EXPORTED = "onnxruntime SplitLRP"
METHODS: dict[str, Callable[[nn.Module, str, str], Call]] = {
    **SPLITS,
    COMPILED: lambda model, middle, last: compiled_splitlrp(model),
    EXPORTED: lambda model, middle, last: exported_splitlrp(model),
    "zennit EpsilonPlus": lambda model, middle, last: zennit(model, zennit_epsilon_plus),
    "zennit Gamma": lambda model, middle, last: zennit(model, zennit_gamma),
    "captum Grad-CAM": lambda model, middle, last: grad_cam(model, last),
    LITERAL: lambda model, middle, last: partial(literal, deepcopy(model).double()),
}
LAYERS = {  # middle, last
    "resnet": ("layer2", "layer4"),
    "vgg": ("features.16", "features"),
    "convnext": ("features.3", "features"),
    "vit": ("encoder.layers.encoder_layer_5", "encoder.layers.encoder_layer_11"),
}
LEFT_OUT = {"vit": ("zennit",), "resnet": (COMPILED,), "vgg": (COMPILED,)}  # it fails; no effect
NETWORKS = [name for name in list_models() if name.startswith(tuple(LAYERS))]
EXTRA = ("zennit", "captum", "onnxruntime")
MISSING = [package for package in EXTRA if not util.find_spec(package)]
GROWS = {"growth by network": 0, "growth by pixels a side": 1, "growth by images": 2}  # of a case
UNITS = {"seconds": "seconds", "above_mib": "MiB above", "peak_mib": "MiB at the peak"}


class ProcessMemory:
    """Resident memory of this process, as Linux counts it, in bytes."""

    @staticmethod
    def current() -> int:
        """Return what the process has now."""
        pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
        return int(pages) * resource.getpagesize()

    @staticmethod
    def reset_peak() -> None:
        """Start to look for the highest value anew."""
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    @staticmethod
    def peak() -> int:
        """Return the highest value since then."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class CudaMemory:
    """Memory that torch has allocated on the GPU, in bytes."""

    current = staticmethod(cuda.memory_allocated)
    reset_peak = staticmethod(cuda.reset_peak_memory_stats)
    peak = staticmethod(cuda.max_memory_allocated)


MEMORY: dict[str, Any] = {"cpu": ProcessMemory, "cuda": CudaMemory}


def say(text: str) -> None:
    """Print a line at once, as a measurement takes long."""
    print(text, flush=True)


def label(case: Case) -> str:
    """Name a case, for people."""
    network, size, batch = case
    return f"{network}, {size} px, batch {batch}"


def prepare(case: Case, device: str) -> tuple[tuple[nn.Module, str, str], Tensor, Tensor]:
    """Make a network, with the names of its middle and last layer, images and classes."""
    name, size, batch = case
    (layers,) = [layers for family, layers in LAYERS.items() if name.startswith(family)]
    model = load(name).model.requires_grad_(False).to(device)
    x = torch.rand(batch, 3, size, size, device=device, requires_grad=True)
    return (model, *layers), x, torch.zeros(batch, dtype=torch.long, device=device)


def seconds(case: Case, methods: Sequence[str], device: str, repeats: int) -> Rows:
    """Time methods in rounds, each of which runs them all."""
    network, x, target = prepare(case, device)
    calls = {method: METHODS[method](*network) for method in methods}
    for method in calls.keys() - {LITERAL}:  # warm up
        calls[method](x, target)
    rounds: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(1 if LITERAL in methods else repeats):
        for method, call in calls.items():
            gc.collect()
            start = time.perf_counter()
            call(x, target)
            if device == "cuda":
                cuda.synchronize()
            rounds[method].append(time.perf_counter() - start)
    rows: Rows = {}
    for method, own_seconds in rounds.items():
        rows[case, method] = {
            "seconds": median(own_seconds),
            "seconds_ratio": median(map(truediv, own_seconds, rounds["gradient"])),
            "rounds": own_seconds,
            "gradient_rounds": rounds["gradient"],
        }
    return rows


def memory(case: Case, methods: Sequence[str], device: str, repeats: int) -> Rows:
    """Measure the memory of one call of one method."""
    (method,) = methods
    counter = MEMORY[device]
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD: give freed memory back
    warm_up = ("resnet18", 32, 1)  # loads and compiles what any call needs
    for current_case in (warm_up, case):
        call: Any = None
        network, x, target = prepare(current_case, device)
        gc.collect()
        before = counter.current()
        call = METHODS[method](*network)
        del network  # a split one has its own copy
        gc.collect()
        counter.reset_peak()
        call(x, target)
        peak = counter.peak()
    return {(case, method): {"above_mib": (peak - before) / 2**20, "peak_mib": peak / 2**20}}


def list_jobs(options: argparse.Namespace) -> list[Job]:
    """List what to measure: of the main cases all methods, of the others split ones only."""
    installed = [name for name in METHODS if name != LITERAL and name.split()[0] not in MISSING]
    if options.device != "cpu":
        installed = [name for name in installed if name != EXPORTED]
    main_cases = options.tables.get("main", [])
    jobs: list[Job] = []
    for case in dict.fromkeys(chain(*options.tables.values())):
        fast, slow = list(SPLITS), []
        if case in main_cases:
            left_out = tuple(m for name in LEFT_OUT if name in case[0] for m in LEFT_OUT[name])
            fast = [method for method in installed if not method.startswith(left_out)]
            if case[2] in options.literal:
                slow = [LITERAL]
        if "seconds" in options.units:
            jobs.append((seconds, case, fast))
            jobs += [(seconds, case, ["gradient", method]) for method in slow]
        if "peak_mib" in options.units:
            measured = [method for method in fast + slow if method != EXPORTED]  # it exports first
            jobs += [(memory, case, [method]) for method in measured]
    return jobs


def measure(options: argparse.Namespace) -> Rows:
    """Measure what is asked for, each job in a fresh process; leave out what fails."""
    jobs = list_jobs(options)
    rows: Rows = defaultdict(lambda: defaultdict(lambda: torch.nan))
    context = get_context("forkserver")
    context.set_forkserver_preload(["dmn.split"])
    for number, (job, case, methods) in enumerate(jobs, 1):
        say(f"[{number}/{len(jobs)}] {job.__name__}, {label(case)}: {', '.join(methods)}")
        try:
            # freezing what was imported makes collections of garbage quick
            with ProcessPoolExecutor(1, context, gc.freeze) as pool:
                found = pool.submit(job, case, methods, options.device, options.repeats).result()
        except (RuntimeError, OSError) as error:
            say(f"left out, perhaps for want of memory: {error}")
            continue
        for key, row in found.items():
            # The gradient is timed twice; the first time counts, not that beside the literal form.
            rows[key] |= row | rows[key]
    for (case, _), row in list(rows.items()):
        for unit in {"above_mib", "peak_mib"} & row.keys():
            row[f"{unit}_ratio"] = row[unit] / rows[case, "gradient"][unit]
    return rows


def versions() -> str:
    """Say when, and with what, this runs."""
    packages = [package for package in ("torch", *EXTRA) if package not in MISSING]
    found = [f"{package} {metadata.version(package)}" for package in packages]
    return ", ".join([time.strftime("%F"), f"Python {sys.version.split()[0]}", *found])


def report(rows: Rows, options: argparse.Namespace) -> str:
    """Print tables of what was measured; returns them in Markdown."""
    console = Console(record=True, width=120)
    where = f"{options.device}, {cpu_count()} cores, {torch.get_num_threads()} threads"
    about = f"{versions()}, {where}"
    console.print(f"    python {' '.join(sys.argv)}\n\n{about}", soft_wrap=True)
    for title, cases in options.tables.items():
        table = Table(title, "method", *(UNITS[unit] for unit in options.units), box=MARKDOWN)
        for case, method in product(cases, METHODS if title == "main" else SPLITS):
            row = rows.get((case, method))
            if row:
                cells = [
                    f"{row[unit]:.4g} (x {row[f'{unit}_ratio']:.2f})" for unit in options.units
                ]
                table.add_row(label(case), method, *cells)
        console.print("", table)
    return console.export_text()


def plot(rows: Rows, options: argparse.Namespace) -> None:
    """Draw the ratios of all methods as bars, and how cost grows as lines."""
    from matplotlib.figure import Figure

    units = [unit for unit in options.units if unit != "peak_mib"]
    figure = Figure((6 * len(options.tables), 5 * len(units)), layout="constrained")
    grid = figure.subplots(len(units), len(options.tables), squeeze=False)
    panels = product(units, options.tables.items())
    for axis, (unit, (title, cases)) in zip(grid.flat, panels, strict=True):
        if title == "main":
            for number, case in enumerate(cases):
                ratios = [rows[case, method][f"{unit}_ratio"] for method in METHODS]
                places = [-place - 0.2 * number for place in range(len(METHODS))]
                axis.bar_label(axis.barh(places, ratios, 0.18, label=label(case)), fmt="%.1f")
            axis.set_yticks(range(0, -len(METHODS), -1), METHODS)
            axis.axvline(1, color="black")
            axis.set(xscale="log", xmargin=0.1)
            axis.set_xlabel(f"{UNITS[unit]}, as a multiple of the gradient's")
        else:
            places = [case[GROWS[title]] for case in cases]
            for method in SPLITS:
                axis.plot(places, [rows[case, method][unit] for case in cases], "o-", label=method)
            axis.set(xlabel=title.split(" by ")[1], ylabel=UNITS[unit], ylim=(0, None))
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    figure.savefig(options.out / "benchmark.png")


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Show the text above as it is, and the default of each option."""


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and list the cases of each table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=["main", "growth", "memory"],
        default=["main", "growth", "memory"],
        help="tables: all methods on some networks (main), how costs grow (growth); memory is "
        "that of both, and by itself leaves seconds out",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        choices=NETWORKS,
        default=["vgg16", "resnet18"],
        help="main: networks, a VGG, ResNet, ConvNeXt or ViT of torchvision's"
        " (zennit's hooks fail on the attention of a ViT)",
    )
    parser.add_argument(
        "--batches", nargs="+", metavar="N", type=int, default=[1, 8], help="main: images at once"
    )
    parser.add_argument(
        "--literal",
        nargs="+",
        metavar="N",
        type=int,
        default=[1, 8],
        help="main: those of --batches at which the literal form is measured, too",
    )
    parser.add_argument("--no-literal", action="store_true", help="leave the literal form out")
    parser.add_argument(
        "--depths",
        nargs="+",
        metavar="NAME",
        choices=NETWORKS,
        default=["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"],
        help="growth: networks; of pixels and of images, that of the first one",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        metavar="PIXELS",
        type=int,
        default=[64, 128, 224, 320],
        help="growth: sides of the images",
    )
    parser.add_argument(
        "--growth-batches",
        nargs="+",
        metavar="N",
        type=int,
        default=[1, 2, 4, 8],
        help="growth: images at once",
    )
    parser.add_argument(
        "--size", metavar="PIXELS", type=int, default=224, help="side of the images elsewhere"
    )
    parser.add_argument("--repeats", metavar="N", type=int, default=7, help="rounds of timing")
    parser.add_argument("--device", choices=list(MEMORY), default="cpu", help="where to compute")
    parser.add_argument("--out", type=Path, default="runs/benchmark", help="folder to write to")
    options = parser.parse_args(args)
    if options.no_literal:
        options.literal = []
    options.tables = list_tables(options)
    options.units = []
    if options.only != ["memory"]:
        options.units.append("seconds")
    if "memory" in options.only:
        options.units += ["above_mib", "peak_mib"]
    return options


def list_tables(options: argparse.Namespace) -> dict[str, list[Case]]:
    """List the cases of each table that is asked for, by its title."""
    first = options.depths[:1]
    size = [options.size]
    cases = {
        "main": product(options.models, size, options.batches),
        "growth by network": product(options.depths, size, [1]),
        "growth by pixels a side": product(first, options.sizes, [1]),
        "growth by images": product(first, size, options.growth_batches),
    }
    wanted = set(options.only) - {"memory"} or {"main", "growth"}
    return {title: list(listed) for title, listed in cases.items() if title.split()[0] in wanted}


def main(args: Sequence[str] | None = None) -> None:
    """Measure, and leave what was found."""
    options = parse(args)
    for package in MISSING:
        say(f"{package} is not installed, and left out; pip install -e '.[compare,onnx]'")
    rows = measure(options)
    if not rows:
        sys.exit("nothing could be measured")
    fields = list(dict.fromkeys(field for row in rows.values() for field in row))
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "benchmark.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "size", "batch", "method", *fields])
        for (case, method), row in rows.items():
            writer.writerow([*case, method, *(row.get(field) for field in fields)])
    (options.out / "benchmark.md").write_text(report(rows, options), encoding="utf-8")
    plot(rows, options)


if __name__ == "__main__":
    main()
