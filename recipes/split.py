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
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("runs/split"), help="folder")
    return parser.parse_args(args)


def train(net: nn.Module, digits: MNIST, epochs: int) -> nn.Module:
    """Train by Adam on cross-entropy, printing each epoch's last loss."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    for epoch in range(epochs):
        for batch in digits.train_dataloader():
            loss = F.cross_entropy(net(batch.image), batch.label)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        print(f"epoch {epoch + 1}/{epochs}  loss {loss.item():.3f}")
    return net.eval()


def main(args: Sequence[str] | None = None) -> None:
    """Train, split, certify, explain."""
    options = parse(args)
    torch.manual_seed(0)
    digits = MNIST()
    digits.setup("fit")
    widths = [(1, 16), (16, 32), (32, 64)]
    units = [
        nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
        for a, b in widths
    ]
    net = train(nn.Sequential(*units, nn.Flatten(), nn.Linear(64 * 9, 10)), digits, options.epochs)

    x, y = digits.validation.images[:8], digits.validation.labels[:8]
    model = split(net, x)
    print(model.certificate(x))
    explainers = {
        "gradient": SplitGrad(model, stream="g-h", part="p"),
        "CAM of g": SplitCAM(model, "1.2", "g", "p", alpha=0.45),
        "CAM of h": SplitCAM(model, "1.2", "h", "p", alpha=0.45),
        "CAM of g - h": SplitCAM(model, "1.2"),
        "LRP of g": SplitLRP(model, stream="g", part="p"),
        "its contrast": SplitLRP(model, stream="g", contrast=True),
    }
    maps = zip(explainers, explain_together(list(explainers.values()), x, y), strict=True)
    pictures = {name: overlay(x, values, against=name == "CAM of h") for name, values in maps}
    save_converted(model, options.out / "split.safetensors")
    caption = "Red speaks for the class, blue against it."
    rows = [str(int(label)) for label in y]
    panel({"image": 1 - x, **pictures}, rows, caption).save(options.out / "maps.png")
    print(f"see {options.out / 'maps.png'}")


if __name__ == "__main__":
    main()
