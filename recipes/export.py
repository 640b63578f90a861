"""Turn a run into a checkpoint to share: weights, and a card that says how good they are.

The best checkpoint is tested once, on the test set of the data it was trained on, and so are its
explanations, by the explainers that the run was watched by:

    python recipes/export.py runs/mnist/version_0 mnist
    python recipes/export.py runs/mnist/version_0 digits --folder elsewhere --images 20
    python recipes/export.py scenes scenes                   a new card, the weights unchanged
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from dmn import data
from dmn.compare.card import accuracy, explanations
from dmn.hub.networks import load_network, save_network

COMMAND = "dmn fit --config {name} --trainer.max_epochs {epochs} --seed_everything {seed}"


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder runs/NAME/version_K, or any network with a card")
    parser.add_argument("name", help="of the checkpoint")
    parser.add_argument("--folder", default="checkpoints", help="where to")
    parser.add_argument("--command", help="what trained it, if not the config of the run's name")
    parser.add_argument("--note", help="what else the card is to say, as where it ran")
    parser.add_argument("--images", type=int, default=100, help="whose explanations are scored")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Load, test, save."""
    options = parse(args)
    network = load_network(options.run)
    told = network.card["data"]
    module = getattr(data, told["class_path"].removeprefix("dmn.data."))(**told["init_args"])
    module.prepare_data()
    module.setup("test")
    image = next(iter(module.test_dataloader())).image[0]
    network = replace(
        network,
        name=options.name,
        classes=tuple(module.classes),
        size=tuple(image.shape),
    )
    card = {"command": COMMAND.format(**network.card), "note": "", **network.card}
    result = accuracy(network, module.test_dataloader())
    facts = {
        "accuracy": result,
        "quantus": explanations(network, module.test_dataloader(), options.images),
        "command": options.command or card["command"],
        "note": card["note"] if options.note is None else options.note,
    }
    path = save_network(network, options.folder, **facts)
    low, high = result["interval"]
    print(f"saved {path}: test accuracy {result['test']:.4f} [{low:.4f}, {high:.4f}]")


if __name__ == "__main__":
    main()
