"""How good are a network's own explanations, beside other methods' of an ordinary one?

A comparison in one page, of two shipped networks on scenes. Put in networks, images, methods and
metrics of your own; `dmn compare --config scenes` is the same with all methods and metrics:

    python recipes/compare.py
    python recipes/compare.py --images 100 --metrics PixelFlipping PointingGame MaxSensitivity
"""

import argparse
from collections.abc import Sequence

from dmn.compare import Budget, Comparison, Source
from dmn.data import Scenes
from dmn.tracking import Run


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images",
        type=int,
        default=20,
        help="number of test images to explain and score (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=["PixelFlipping", "RelevanceRankAccuracy", "Sparseness"],
        help="names of Quantus' metrics to score by (default: %(default)s)",
    )
    parser.add_argument(
        "--root", default="runs", help="folder in which the run gets its own (default: %(default)s)"
    )
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Compare, and say where the report is."""
    options = parse(args)
    comparison = Comparison(
        networks={"DM": Source("scenes"), "ResNet": Source("scenes_resnet18")},
        methods={
            "DM": {  # explains itself
                "SplitCAM": {"layer": "stage3_2", "stream": "g"},
                "SplitLRP": {"layer": "stem", "stream": "g", "contrast": [False, True]},
            },
            "ResNet": {  # is explained; options that are lists are chosen on validation images
                "SplitLRP": {"stream": "g", "contrast": [False, True]},
                "GradCAM": {"layer": ["layer2", "layer3", "layer4"]},
                "LRPEpsilonPlus": {"absolute": [False, True]},
                "Gradient": {"absolute": [False, True]},
            },
        },
        data=Scenes(),
        metrics=options.metrics,
        choose_by=["PixelFlipping"],
        budget=Budget(validation=max(2, options.images // 2), test=options.images),
        title="Two networks, explained",
    )
    comparison.run(Run(name="recipe", root=options.root))


if __name__ == "__main__":
    main()
