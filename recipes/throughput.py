"""Measure what training a difference of monotone networks costs, beside one unconstrained network.

    python recipes/throughput.py
    python recipes/throughput.py --model conv --steps 50 --threads 2 --bf16

A difference network is two networks of the same size. Medians of steps (forward, backward,
clipping, Adam), taken in turns; the projection is timed by itself within the step.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dmn.models import DifferenceOfMonotone, MonotoneConvNet, MonotoneResNet, MonotoneVGG
from dmn.nn import Paired, project

NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, int, int]]] = {
    "conv": (partial(MonotoneConvNet, 2, units=1, residual=True), (1, 28, 28)),
    "resnet": (partial(MonotoneResNet, 6, 16, stem="small", grid=4), (3, 64, 64)),
    "vgg": (partial(MonotoneVGG, 6, 16), (3, 64, 64)),
}


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--model", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="mixed precision, channels-last")
    return parser.parse_args(args)


def stepper(net: nn.Module, x: Any, y: Any, bf16: bool) -> Callable[[], Any]:
    """Return a training step: its seconds, and those of the projection within it."""
    if bf16:
        net, x = (each.to(memory_format=torch.channels_last) for each in (net, x))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        stepped = time.perf_counter()
        project(net)
        end = time.perf_counter()
        return end - start, end - stepped

    return step


def main(args: Sequence[str] | None = None) -> None:
    """Time all, and print the table."""
    options = parse(args)
    torch.set_num_threads(options.threads)
    for name in options.model:
        make, shape = NETWORKS[name]
        x, y = torch.rand(options.batch, *shape), torch.arange(options.batch) % 10
        alone = nn.Sequential(Paired(1), make(constraint="none"))
        steps = [
            stepper(net, x, y, options.bf16)
            for net in (alone, DifferenceOfMonotone(make(), make()))
        ]
        timed = [[step() for step in steps] for _ in range(options.steps + 3)][3:]  # warmed up
        one, two = (median(row[k][0] for row in timed) for k in (0, 1))
        ratio = median(row[1][0] / row[0][0] for row in timed)
        share = median(row[1][1] / row[1][0] for row in timed)
        print(
            f"{name}: alone {1e3 * one:.1f} ms, difference {1e3 * two:.1f} ms, "
            f"{ratio:.2f} times; projection {share:.1%} of it",
            flush=True,
        )


if __name__ == "__main__":
    main()
