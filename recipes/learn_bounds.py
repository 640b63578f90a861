"""Does a split network explain better with V >= |W| learned? Learnt on validation, told on test.

The network predicts what it did, bit for bit; only how its evidence is shared out changes:

    python recipes/learn_bounds.py
    python recipes/learn_bounds.py scenes_vgg16 --objectives sparseness --contrast
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from dmn.compare.statistics import interval
from dmn.data import Scenes
from dmn.evaluate import score
from dmn.explain import SplitLRP
from dmn.hub.networks import load_network
from dmn.split import Example, learn_bounds, patch_logit_drops, split
from dmn.split.learned_bounds import OBJECTIVES

METRICS = ["RelevanceRankAccuracy", "RelevanceMassAccuracy", "PixelFlipping", "Sparseness"]


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("network", nargs="?", default="scenes_resnet18", help="of dmn.load_network")
    add("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    add("--contrast", action="store_true", help="of SplitLRP of g, which is what is learnt")
    add("--images", type=int, default=60, help="validation images, and as many test images")
    add("--epochs", type=int, default=6)
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Learn by each objective, and print both scores with the paired differences."""
    options = parse(args)
    net = load_network(options.network).model
    data = Scenes()
    data.setup("test")
    own, test = (
        part.__getitems__(list(range(options.images))) for part in (data.validation, data.test)
    )
    assert own.mask is not None, "scenes have masks"
    masks = own.mask
    clues = {"faithfulness": lambda: patch_logit_drops(net, own.image, own.label)}

    def explained() -> SplitLRP:
        return SplitLRP(split(net, test.image[:2]), stream="g", contrast=options.contrast)

    before = score(METRICS, net, explained(), *test)
    print("| objective | metric | V = abs(W) | V learned | difference, 95 % |")
    print("|---|---|---|---|---|")
    for objective in options.objectives:
        explainer = explained()
        clue = clues.get(objective, lambda: masks)()
        parts = (torch.split(part, 16) for part in (own.image, own.label, clue))
        examples = [Example(*batch) for batch in zip(*parts, strict=True)]
        learn_bounds(explainer, examples, objective, epochs=options.epochs)
        assert torch.equal(explainer.pair(test.image), net(test.image))
        for metric, after in score(METRICS, net, explainer, *test).items():
            gain = after.values - before[metric].values
            low, high = interval(gain)
            ends = f"{np.nanmean(gain):+.4f} [{low:+.4f}, {high:+.4f}]"
            means = f"{before[metric].mean:.4f} | {after.mean:.4f}"
            print(f"| {objective} | {metric} | {means} | {ends} |", flush=True)


if __name__ == "__main__":
    main()
