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
from dmn.hub import load, save_network
from dmn.io.class_paths import class_paths, instantiate

COMMAND = "dmn fit --config {name} --trainer.max_epochs {epochs} --seed_everything {seed}"


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "run", help="folder of the run, such as runs/mnist/version_0, or any network with a card"
    )
    parser.add_argument("name", help="name of the checkpoint, and of its two files")
    parser.add_argument(
        "--folder", default="checkpoints", help="folder to write to (default: %(default)s)"
    )
    parser.add_argument(
        "--command",
        help="command that trained the network, for the card "
        "(default: that of the config with the run's name)",
    )
    parser.add_argument(
        "--note", help="anything else for the card, such as the machine (default: the note it has)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=100,
        help="number of test images whose explanations are scored (default: %(default)s)",
    )
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> None:
    """Load the network, test it and its explanations, and save it with its card."""
    options = parse(args)
    network = load(options.run)
    module = instantiate(network.card["data"], class_paths(data))
    module.prepare_data()
    module.setup("test")
    images, *_ = next(iter(module.test_dataloader()))
    network = replace(
        network,
        name=options.name,
        classes=tuple(module.classes),
        size=tuple(images[0].shape),
    )
    card = {"command": COMMAND.format(**network.card), "note": "", **network.card}
    test_accuracy = accuracy(network, module.test_dataloader())
    facts = {
        "accuracy": test_accuracy,
        "quantus": explanations(network, module.test_dataloader(), options.images),
        "command": options.command or card["command"],
        "note": card["note"] if options.note is None else options.note,
    }
    path = save_network(network, options.folder, **facts)
    low, high = test_accuracy["interval"]
    print(f"saved {path}: test accuracy {test_accuracy['test']:.4f} [{low:.4f}, {high:.4f}]")


if __name__ == "__main__":
    main()
