"""Train an ordinary CNN on digits, split it, and see what speaks for and against each class.

What to do with a trained CNN of your own, in one page; the training is only there to have one:

    python recipes/split.py
    python recipes/split.py --epochs 2 --out runs/split
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from dmn.data import MNIST
from dmn.explain import SplitCAM, SplitGrad, SplitLRP, explain_together
from dmn.hub import save_converted
from dmn.split import split
from dmn.viz.panels import overlay, panel


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=6,
        help="how often to go through the training digits (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/split"),
        help="folder for the split network and the picture (default: %(default)s)",
    )
    return parser.parse_args(args)


def conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a convolution, batch norm, ReLU and a pooling that halves the image."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def train(net: nn.Module, digits: MNIST, epochs: int) -> None:
    """Train by Adam on cross-entropy, printing each epoch's last loss."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    for epoch in range(epochs):
        for batch in digits.train_dataloader():
            loss = F.cross_entropy(net(batch.image), batch.label)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        print(f"epoch {epoch + 1}/{epochs}  loss {loss.item():.3f}")
    net.eval()


def main(args: Sequence[str] | None = None) -> None:
    """Train, split, certify, explain, and save both the split network and the picture."""
    options = parse(args)
    torch.manual_seed(0)
    digits = MNIST()
    digits.setup("fit")
    net = nn.Sequential(
        conv_block(1, 16),
        conv_block(16, 32),
        conv_block(32, 64),
        nn.Flatten(),
        nn.Linear(64 * 3 * 3, 10),
    )
    train(net, digits, options.epochs)

    x, y = digits.validation.images[:8], digits.validation.labels[:8]
    model = split(net, x)
    print(model.certificate(x))
    explainers = {
        "gradient": SplitGrad(model, stream="g-h", part="p"),
        "CAM of g": SplitCAM(model, "1.2", "g", "p", alpha=0.45),
        "CAM of h": SplitCAM(model, "1.2", "h", "p", alpha=0.45),
        "CAM of g - h": SplitCAM(model, "1.2"),
        "LRP": SplitLRP(model),
        "LRP, z+": SplitLRP(model, alpha=0.0),
    }
    all_maps = explain_together(list(explainers.values()), x, y)  # (8, 1, 28, 28) each
    pictures = {"image": 1 - x}
    for name, maps in zip(explainers, all_maps, strict=True):
        pictures[name] = overlay(x, maps, against=name == "CAM of h")
    save_converted(model, options.out / "split.safetensors")
    rows = [f"digit {label}" for label in y]
    panel(pictures, rows, legend=True).save(options.out / "maps.png")
    print(f"see {options.out / 'maps.png'}")


if __name__ == "__main__":
    main()
