"""Tell how well a linear probe classifies by what each block of a network makes of the images.

    python recipes/probe.py scenes_front scenes_ordinary --out probe.csv

The probe is a logistic regression on each channel's mean and maximum in cells of the image. It is
fitted on training images, varied as in training, and tells validation images apart. Where it is
nearly as good as the whole network, little is left to the layers above.

Source: Alain & Bengio, Understanding intermediate layers using linear classifier probes, 2016.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import defaultdict
from typing import Any

import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from dmn import data, load
from dmn.io.text import cell, plain
from dmn.models import DifferenceOfMonotone


def blocks(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Name what to probe: children made of layers; of a difference its front, then g's and h's."""
    if isinstance(model, DifferenceOfMonotone):
        g, h = (blocks(side.net) for side in (model.g, model.h))
        return {"front": [model.front], **{name: g[name] + h[name] for name in g}}
    return {name: [each] for name, each in model.named_children() if [*each.children()]}


@torch.no_grad()
def features(model: nn.Module, batches: Any, cells: int) -> dict[str, Tensor]:
    """Return what probes see of each block, the classes, and whether the network is right."""
    rows, kept, found = defaultdict(list), {}, blocks(model)
    for module in {each for modules in found.values() for each in modules}:
        module.register_forward_hook(lambda module, args, out: kept.update({module: out}))
    for image, label, *_ in batches:
        rows["right"].append(model(image).argmax(1) == label)
        rows["label"].append(label)
        for name, modules in found.items():
            x = torch.cat([kept[module] for module in modules], 1)
            pools = adaptive_avg_pool2d(x, cells), adaptive_max_pool2d(x, cells)
            rows[name].append(torch.cat(pools, 1).flatten(1))
    return {name: torch.cat(each) for name, each in rows.items()}


def main(args: list[str] | None = None) -> None:
    """Probe every network, and print and write the table."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="what dmn.load takes, with a card or a run")
    parser.add_argument("--cells", type=int, default=1, help="a side; 1 is the whole image")
    parser.add_argument("--epochs", type=int, default=4, help="of training images")
    parser.add_argument("--out", default="probe.csv", help="the table")
    given = parser.parse_args(args)
    table = pd.DataFrame(columns=["network", "block", "accuracy"])
    for name in given.networks:
        network = load(name)
        told = network.card["data"]
        module = getattr(data, told["class_path"].removeprefix("dmn.data."))(**told["init_args"])
        module.prepare_data()
        module.setup("fit")
        loader = module.train_dataloader()
        parts: Any = [], module.val_dataloader()
        for epoch in range(given.epochs):
            loader.sampler.set_epoch(epoch)
            parts[0].extend(loader)
        fit, held = (features(network.model, part, given.cells) for part in parts)
        accuracy = {"whole": float(held.pop("right").float().mean())}
        for block in blocks(network.model):
            linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
            linear.fit(fit[block], fit["label"])
            accuracy[block] = linear.score(held[block], held["label"])
        for row in accuracy.items():
            table.loc[len(table)] = cell(name), *row
            print(plain(name), *row, flush=True)
    table.to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
