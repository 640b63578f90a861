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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.models import DifferenceOfMonotone, MonotoneConvNet, MonotoneResNet, MonotoneVGG
from dmn.nn import Paired, project

WARM_UP = 3  # steps that are not counted
NETWORKS: dict[str, tuple[Callable[..., nn.Module], tuple[int, int, int]]] = {
    "conv": (partial(MonotoneConvNet, 2, units=1, residual=True), (1, 28, 28)),
    "resnet": (partial(MonotoneResNet, 6, 16, stem="small", grid=4), (3, 64, 64)),
    "vgg": (partial(MonotoneVGG, 6, 16), (3, 64, 64)),
}


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        nargs="+",
        choices=NETWORKS,
        default=list(NETWORKS),
        help="networks to time, one after the other (default: all)",
    )
    parser.add_argument(
        "--batch", type=int, default=32, help="images in a step (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=30, help="steps to take medians of (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="threads to compute in (default: %(default)s, as torch chooses)",
    )
    parser.add_argument(
        "--bf16", action="store_true", help="compute in mixed precision, channels last"
    )
    return parser.parse_args(args)


def training_step(
    net: nn.Module, x: Tensor, y: Tensor, bf16: bool
) -> Callable[[], tuple[float, float]]:
    """Return a training step, which returns its seconds, and those of the projection within it."""
    if bf16:
        net = net.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
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
        unconstrained = nn.Sequential(Paired(1), make(constraint="none"))
        difference = DifferenceOfMonotone(make(), make())
        step_alone = training_step(unconstrained, x, y, options.bf16)
        step_difference = training_step(difference, x, y, options.bf16)
        rounds = [(step_alone(), step_difference()) for _ in range(WARM_UP + options.steps)]
        alone, both, ratios, shares = [], [], [], []
        for (seconds_alone, _), (seconds, projection) in rounds[WARM_UP:]:
            alone.append(seconds_alone)
            both.append(seconds)
            ratios.append(seconds / seconds_alone)
            shares.append(projection / seconds)
        print(
            f"{name}: alone {1e3 * median(alone):.1f} ms, "
            f"difference {1e3 * median(both):.1f} ms, {median(ratios):.2f} times; "
            f"projection {median(shares):.1%} of it",
            flush=True,
        )


if __name__ == "__main__":
    main()
