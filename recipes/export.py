"""Turn a run into a checkpoint to share: weights, and a card that says how good they are.

The best checkpoint is tested once, on the test set of the data it was trained on:

    python recipes/export.py runs/mnist/version_0 mnist
    python recipes/export.py runs/mnist/version_0 digits --folder elsewhere
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dmn import data
from dmn.networks import Network, load_network, save_network

Z = 1.96  # of the normal distribution, for 95 %


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder runs/NAME/version_K")
    parser.add_argument("name", help="of the checkpoint")
    parser.add_argument("--folder", default="checkpoints", help="where to")
    parser.add_argument("--command", help="what trained it, if not the config of the run's name")
    parser.add_argument("--note", default="", help="what else the card is to say, as where it ran")
    return parser.parse_args(args)


def accuracy(network: Network, module: Any) -> dict[str, Any]:
    """Count what the network gets right on the test set, with Wilson's 95 % interval."""
    right = n = 0
    with torch.inference_mode():
        for x, y, *_ in module.test_dataloader():
            right, n = right + int((network.model(x).argmax(dim=1) == y).sum()), n + len(y)
    middle = (right + Z**2 / 2) / (n + Z**2)
    reach = Z / (n + Z**2) * (right * (n - right) / n + Z**2 / 4) ** 0.5
    interval = [round(middle - reach, 4), round(middle + reach, 4)]
    return {"test": right / n, "n": n, "interval": interval}


def main(args: Sequence[str] | None = None) -> None:
    """Load, test, save."""
    options = parse(args)
    network = load_network(str(options.run))
    told = network.card["data"]
    module = getattr(data, told["class_path"].removeprefix("dmn.data."))(**told["init_args"])
    module.prepare_data()
    module.setup("test")
    image = next(iter(module.test_dataloader()))[0][0]
    network = replace(
        network,
        name=options.name,
        classes=tuple(module.classes),
        size=tuple(image.shape),
    )
    result = accuracy(network, module)
    default = "dmn fit --config {name} --trainer.max_epochs {epochs} --seed_everything {seed}"
    command = options.command or default.format(**network.card)
    facts = {"accuracy": result, "command": command, "note": options.note}
    path = save_network(network, options.folder, **facts)
    low, high = result["interval"]
    print(f"saved {path}: test accuracy {result['test']:.4f} [{low:.4f}, {high:.4f}]")


if __name__ == "__main__":
    main()
