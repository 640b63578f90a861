"""Small files in the formats of data sets that are not bundled, with noise for images."""

import pickle
import struct

import numpy as np
from PIL import Image

CLASSES = 10


def mnist(root):
    """Write what MNIST's four IDX files are; 6,000 to train, of which 5,000 validate."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 6_000), ("t10k", 50)):
        _write_idx(raw / f"{name}-images-idx3-ubyte", _noise(count, 28, 28))
        _write_idx(raw / f"{name}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % CLASSES)


def cifar10(root, count=40):
    """Write what CIFAR-10's archive unpacks to; its checksums are not those published."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        labels = (np.arange(count) % CLASSES).tolist()
        held = {"batch_label": name, "data": _noise(count, 3072), "labels": labels}
        (folder / name).write_bytes(pickle.dumps(held))
    names = [f"class {number}" for number in range(CLASSES)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


def imagenet(root):
    """Write JPEGs in folders of classes, as ImageNet's archives unpack to."""
    for part, count in (("train", 50), ("val", 2)):
        for name in ("n01440764", "n01443537"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray(np.roll(_noise(50, 70, 3), number, axis=0))
                picture.save(folder / f"{name}_{number}.JPEG")


def _write_idx(path, array):
    magic = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(magic + array.tobytes())


def _noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
