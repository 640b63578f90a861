"""Tell how well a linear probe classifies by what each block of a network makes of the images.

    python recipes/probe.py scenes_front scenes_ordinary --out probe.csv

The probe is a logistic regression on each channel's mean and maximum in cells of the image. It is
fitted on training images, varied as in training, and tells validation images apart. Where it is
nearly as good as the whole network, little is left to the layers above.

Source: Alain & Bengio, Understanding intermediate layers using linear classifier probes, 2016.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from dmn import data, load
from dmn.hub import Network
from dmn.io.class_paths import class_paths, instantiate
from dmn.io.text import cell, plain
from dmn.models import DifferenceOfMonotone


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks", nargs="+", help="runs' folders, or names or files of networks with a card"
    )
    parser.add_argument(
        "--cells",
        type=int,
        default=1,
        help="cells per side that an image is divided into; 1 is the whole (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=4,
        help="how often to go through the training images (default: %(default)s)",
    )
    parser.add_argument(
        "--out", default="probe.csv", help="CSV file to write (default: %(default)s)"
    )
    return parser.parse_args(args)


def blocks(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Name what to probe: children made of layers; of a difference its front, then g's and h's."""
    if isinstance(model, DifferenceOfMonotone):
        blocks_of_g, blocks_of_h = blocks(model.g.net), blocks(model.h.net)
        both = {name: blocks_of_g[name] + blocks_of_h[name] for name in blocks_of_g}
        return {"front": [model.front], **both}
    return {name: [child] for name, child in model.named_children() if list(child.children())}


@torch.no_grad()
def features(model: nn.Module, batches: Iterable[Any], cells: int) -> dict[str, Tensor]:
    """Return what probes see of each block, the classes, and whether the network is right.

    Args:
        model: The network.
        batches: Images (B, C, H, W), classes (B,), and anything else, which is ignored.
        cells: Cells per side that each feature map is divided into.

    Returns:
        "label" and "right", (N,), and features by block, (N, 2 * channels * cells**2).
    """
    modules_of_block = blocks(model)
    outputs: dict[nn.Module, Tensor] = {}

    def keep_output(module: nn.Module, args: Any, output: Tensor) -> None:
        outputs[module] = output

    for module in {module for modules in modules_of_block.values() for module in modules}:
        module.register_forward_hook(keep_output)
    rows = defaultdict(list)
    for image, label, *_ in batches:
        rows["right"].append(model(image).argmax(dim=1) == label)
        rows["label"].append(label)
        for name, modules in modules_of_block.items():
            x = torch.cat([outputs[module] for module in modules], dim=1)
            pooled = [adaptive_avg_pool2d(x, cells), adaptive_max_pool2d(x, cells)]
            rows[name].append(torch.cat(pooled, dim=1).flatten(start_dim=1))
    return {name: torch.cat(parts) for name, parts in rows.items()}


def load_data(card: dict[str, Any]) -> Any:
    """Make the data module that a network was trained on, as its card says."""
    module = instantiate(card["data"], class_paths(data))
    module.prepare_data()
    module.setup("fit")
    return module


def probe(network: Network, options: argparse.Namespace) -> dict[str, float]:
    """Return the accuracy of the whole network, and of a probe at each block."""
    module = load_data(network.card)
    loader = module.train_dataloader()
    batches = []
    for epoch in range(options.epochs):
        loader.sampler.set_epoch(epoch)
        batches.extend(loader)
    training = features(network.model, batches, options.cells)
    validation = features(network.model, module.val_dataloader(), options.cells)
    accuracy = {"whole": float(validation["right"].float().mean())}
    for block in blocks(network.model):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        classifier.fit(training[block], training["label"])
        accuracy[block] = classifier.score(validation[block], validation["label"])
    return accuracy


def main(args: Sequence[str] | None = None) -> None:
    """Probe every network, and print and write the table."""
    options = parse(args)
    table = pd.DataFrame(columns=["network", "block", "accuracy"])
    for name in options.networks:
        for block, accuracy in probe(load(name), options).items():
            table.loc[len(table)] = [cell(name), block, accuracy]
            print(plain(name), block, accuracy, flush=True)
    table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
