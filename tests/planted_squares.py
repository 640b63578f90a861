"""Pictures in which a planted square alone tells the class, and networks that have learnt that."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

COLOURS = {"blue": (40, 80, 255), "green": (30, 220, 60), "red": (255, 50, 40)}
GREYS = {"dim": (110, 110, 110), "bright": (230, 230, 230)}
BRIGHTEST = 30  # of the background, of 255
DARK = 6  # likewise, for difference networks, whose g shows the evidence of the background too
STRIPE = 4  # pixels


def plant(rng, name, height, width, brightest=BRIGHTEST):
    """Return a picture (H, W, 3) of a class.

    The classes are three colours and, in grey, "smooth" and "striped". The background is a soft
    random texture that is of no class.
    """
    coarse = rng.uniform(0, brightest, (height // 8 + 1, width // 8 + 1)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.repeat(np.asarray(smooth, float)[..., None], 3, axis=2)
    side = min(height, width) // 3
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    square = (slice(top, top + side), slice(left, left + side))
    pixels[square] = (COLOURS | GREYS).get(name, (200, 200, 200)) + rng.normal(
        0, 12, (side, side, 1)
    )
    if name == "striped":
        pixels[square][:, np.arange(side) % STRIPE < STRIPE // 2] = 90
    return pixels.clip(0, 255).astype(np.uint8)


def write_folder(root, names, count, height, width, mode="RGB"):
    """Write pictures of each class into a folder of its name, on a dark background."""
    rng = np.random.default_rng(0)
    for name in names:
        Path(root, name).mkdir(parents=True)
        for index in range(count):
            pixels = plant(rng, name, height, width, DARK)
            Image.fromarray(pixels).convert(mode).save(Path(root, name, f"{index:03}.png"))


def write_picture(path, name, height, width, mode="RGB", brightest=BRIGHTEST):
    """Write a picture that no network has seen."""
    pixels = plant(np.random.default_rng(1), name, height, width, brightest)
    Image.fromarray(pixels).convert(mode).save(path)


def batch(rng, names, count, height, width, channels=3):
    """Return pictures as a network sees them, (count, channels, H, W), and their labels."""
    labels = torch.arange(count) % len(names)
    pixels = [plant(rng, names[label], height, width)[..., :channels] for label in labels]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255, labels


def fit(net, names, height, width, steps=30, channels=3, loss=nn.functional.cross_entropy):
    """Train a network by a plain loop, until it tells the classes apart."""
    rng = np.random.default_rng(2)
    x, labels = batch(rng, names, 64, height, width, channels)
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    net.train()
    for _ in range(steps):
        chosen = torch.from_numpy(rng.integers(0, len(x), 32))
        optimizer.zero_grad()
        loss(net(x[chosen]), labels[chosen]).backward()
        optimizer.step()
    return net.eval()


def share(values, square):
    """Return the share of a map's (H, W) positive part that is in a square."""
    positive = np.clip(values, 0, None)
    return positive[square].sum() / positive.sum()
