import pickle

import numpy as np
import pytest
import torch
from torchvision import datasets

from dmn.data import CIFAR10, ImageBatch
from dmn.errors import DataError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGES = 40  # a file


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Write small files in the published format; only their checksums are not the published."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = rng.integers(0, 256, (IMAGES, 3072), dtype=np.uint8)
        labels = (np.arange(IMAGES) % 10).tolist()
        held = {"batch_label": name, "data": pixels, "labels": labels}
        (folder / name).write_bytes(pickle.dumps(held))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    return tmp_path


def module(root, **options):
    data = CIFAR10(str(root), **{"num_workers": 0, "batch_size": 16, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def keys(part):
    return {image.tobytes() for image, _ in part.samples}


def test_a_tenth_of_training_validates_classes_balanced(root):
    data = module(root)
    assert data.classes == tuple(CLASSES)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [180, 20, 40]
    assert [label for _, label in data.validation.samples] == list(range(10)) * 2
    assert [label for _, label in data.test.samples] == list(range(10)) * 4
    assert not keys(data.train) & keys(data.validation)
    assert keys(module(root).validation) == keys(data.validation)
    assert keys(module(root, seed=1).validation) != keys(data.validation)


def test_images_are_those_of_the_file(root):
    data = module(root)
    with (root / "cifar-10-batches-py" / "test_batch").open("rb") as file:
        held = pickle.load(file)
    expected = torch.from_numpy(held["data"]).view(-1, 3, 32, 32).float() / 255
    batch = data.test.__getitems__(list(range(10)))
    assert isinstance(batch, ImageBatch)
    assert batch.mask is None
    assert torch.equal(batch.image, expected[:10])
    normal = module(root, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).test.__getitems__([3])
    assert torch.allclose(normal.image[0], expected[3] * 2 - 1)


def test_training_images_are_shifted_and_mirrored_by_the_epoch(root):
    train = module(root).train
    one, again, other = (train.__getitems__([(epoch, 5)]).image for epoch in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, train.__getitems__([5]).image)
    still = module(root, augment=False).train
    assert torch.equal(still.__getitems__([(1, 5)]).image, train.__getitems__([5]).image)


def test_offline_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    data = CIFAR10(str(tmp_path))
    told = r"CIFAR-10 is not in .*Put cifar-10-python\.tar\.gz there and unpack it"
    with pytest.raises(DataError, match=told):
        data.prepare_data()
    with pytest.raises(DataError, match=told):
        data.setup("fit")
