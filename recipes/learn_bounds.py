"""Does a split network explain better with bounds V >= |W| that are learned?

They are learned on validation images; the table has scores of test images. The network predicts
what it did before, bit for bit; only how its evidence is shared out changes:

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
from dmn.hub import load
from dmn.split import Example, learn_bounds, patch_logit_drops, split
from dmn.split.learned_bounds import OBJECTIVES

BATCH_SIZE = 16
METRICS = ["RelevanceRankAccuracy", "RelevanceMassAccuracy", "PixelFlipping", "Sparseness"]


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "network",
        nargs="?",
        default="scenes_resnet18",
        help="a network trained on scenes, by name or folder (default: %(default)s)",
    )
    parser.add_argument(
        "--objectives",
        nargs="+",
        default=list(OBJECTIVES),
        choices=list(OBJECTIVES),
        help="what to learn the bounds for, one after the other (default: all)",
    )
    parser.add_argument(
        "--contrast",
        action="store_true",
        help="explain the class in contrast to the others, by SplitLRP of g",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=60,
        help="number of validation images, and of test images (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=6,
        help="how often to go through the validation images (default: %(default)s)",
    )
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Learn by each objective, and print both scores with the paired differences."""
    options = parse(args)
    net = load(options.network).model
    data = Scenes()
    data.setup("test")
    indices = list(range(options.images))
    validation = data.validation.__getitems__(indices)
    test = data.test.__getitems__(indices)

    def make_explainer() -> SplitLRP:
        model, contrast = split(net, test.image[:2]), options.contrast
        return SplitLRP(model, stream="g", contrast=contrast, alpha=0.0, head_alpha=0.0)

    before = score(METRICS, net, make_explainer(), *test)
    print("| objective | metric | V = abs(W) | V learned | difference, 95 % |")
    print("|---|---|---|---|---|")
    for objective in options.objectives:
        explainer = make_explainer()
        if objective == "faithfulness":
            clue = patch_logit_drops(net, validation.image, validation.label)
        else:
            assert validation.mask is not None, "scenes have masks"
            clue = validation.mask
        batches = zip(
            torch.split(validation.image, BATCH_SIZE),
            torch.split(validation.label, BATCH_SIZE),
            torch.split(clue, BATCH_SIZE),
            strict=True,
        )
        examples = [Example(*batch) for batch in batches]
        learn_bounds(explainer, examples, objective, epochs=options.epochs)
        assert torch.equal(explainer.pair(test.image), net(test.image))
        for metric, after in score(METRICS, net, explainer, *test).items():
            gain = after.values - before[metric].values
            low, high = interval(gain)
            cells = [
                objective,
                metric,
                f"{before[metric].mean:.4f}",
                f"{after.mean:.4f}",
                f"{np.nanmean(gain):+.4f} [{low:+.4f}, {high:+.4f}]",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
