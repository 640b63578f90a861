"""Folders of small photos of one's own, whose classes differ in colour or in brightness."""

import shlex

import numpy as np
from PIL import Image

NAMES = ("Γάτα", "chat noir", "犬")
SHORT = shlex.split(
    "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1 "
    "--trainer.limit_test_batches 1 --trainer.num_sanity_val_steps 0 --data.batch_size 4 "
    "--quantus.every_n_epochs 0 --heatmaps.every_n_epochs 0"
)


def save_photo(path, label=0, number=0, mode="RGB", size=(40, 36), format=None):
    """Write a noisy photo; its class can be told by its brightest channel, or by its grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([label, number]).integers(0, 60, (size[1], size[0], 3))
    pixels[..., label % 3] += 60 + 30 * (label % 4)
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path, format)


def make_photos(root, names=NAMES, count=10, suffix=".png", **options):
    """Fill a folder with a folder of photos for each class; return it."""
    for label, name in enumerate(names):
        for number in range(count):
            save_photo(root / name / f"{number}{suffix}", label, number, **options)
    return root
