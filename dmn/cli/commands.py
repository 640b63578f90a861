"""Which commands there are, and the module that each is imported from."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command of `dmn`.

    Args:
        summary: One line of `dmn --help`.
        module: Whose `main` runs it.
        configs: Folder of the shipped configs that it takes by name.
    """

    summary: str
    module: str
    configs: str = ""


COMMANDS = {
    "fit": Command("Train a network, watched by heatmaps and scores.", "dmn.cli.training"),
    "finetune": Command("Train from the weights of a checkpoint.", "dmn.cli.training"),
    "validate": Command("Report metrics on the validation set.", "dmn.cli.training"),
    "test": Command("Report metrics on the test set.", "dmn.cli.training"),
    "convert": Command("Split a trained classifier, or canonize it.", "dmn.cli.convert"),
    "explain": Command("Show what in a picture speaks for a class.", "dmn.cli.explain"),
    "show": Command("Draw a saved explanation.", "dmn.cli.show"),
    "view": Command("Write a page to look at maps and to draw.", "dmn.cli.view"),
    "export": Command("Write a network and its maps as ONNX.", "dmn.cli.export"),
    "certify": Command("Prove that small changes leave a class.", "dmn.cli.certify"),
    "compare": Command("Score explanations by Quantus' metrics.", "dmn.cli.compare", "compare"),
}
