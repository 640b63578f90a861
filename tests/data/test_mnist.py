import struct

import numpy as np
import pytest
import torch
from torchvision import datasets

from dmn.data import MNIST
from dmn.data.mnist import STROKE
from dmn.errors import DataError, OptionError


@pytest.fixture(scope="module")
def digits():
    data = MNIST()
    data.setup("fit")
    return data


def keys(part):
    return {image.numpy().tobytes() for image in part.images}


def test_the_default_split_is_disjoint_stratified_and_of_the_documented_size(digits):
    parts = [digits.train, digits.validation, digits.test]
    assert [len(part) for part in parts] == [3_500, 500, 1_000]
    for part in parts:
        counts = part.labels.bincount()
        assert counts.min() == counts.max() == len(part) // 10
        assert part.images.min() == 0
        assert part.images.max() == 1
    assert not keys(digits.train) & keys(digits.validation)
    assert not (keys(digits.train) | keys(digits.validation)) & keys(digits.test)


def test_the_five_folds_test_every_digit_once():
    tested = []
    for fold in range(5):
        data = MNIST(fold=fold)
        data.setup("test")
        tested.append(data.test.images)
    assert len(torch.cat(tested).flatten(1).unique(dim=0)) >= 4_990  # a few digits are twins
    assert sum(map(len, tested)) == 5_000


def test_folds_are_the_same_each_time_and_refused_outside():
    parts = []
    for _ in range(2):
        data = MNIST(fold=2)
        data.setup("fit")
        parts.append(data.train.images)
    assert torch.equal(*parts)
    with pytest.raises(OptionError, match=r"data\.fold is 5; choose 0 to 4"):
        MNIST(fold=5)


def test_classes_take_turns_in_validation_and_test(digits):
    for part in (digits.validation, digits.test):
        assert part.labels[:30].tolist() == list(range(10)) * 3


def test_batches_hold_images_classes_and_masks_of_the_stroke(digits):
    batch = next(iter(digits.val_dataloader()))
    assert batch.image.shape == batch.mask.shape == (250, 1, 28, 28)
    assert torch.equal(batch.mask, (batch.image > STROKE).float())
    share = batch.mask.mean(dim=(1, 2, 3))
    assert share.min() > 0.02
    assert share.max() < 0.45


def test_training_batches_are_augmented_and_repeat_with_the_epoch(digits):
    loader = digits.train_dataloader()
    assert len(loader) == 3_500 // 32

    def first(epoch):
        loader.sampler.set_epoch(epoch)
        return next(iter(loader))

    one, again, other = first(1), first(1), first(2)
    assert torch.equal(one.image, again.image)
    assert not torch.equal(one.image, other.image)
    (_, index), *_ = iter(loader.sampler)
    assert not torch.equal(other.image[0], digits.train.images[index])
    assert other.label[0] == digits.train.labels[index]


def test_augmentation_can_be_switched_off():
    data = MNIST(augment=False)
    data.setup("fit")
    loader = data.train_dataloader()
    (_, index), *_ = iter(loader.sampler)
    assert torch.equal(next(iter(loader)).image[0], data.train.images[index])


def write_idx(folder, name, array):
    magic = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    (folder / name).write_bytes(magic + array.tobytes())


def test_full_mnist_is_read_in_its_published_format(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", 6_000), ("t10k", 50)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(raw, f"{name}-images-idx3-ubyte", images)
        write_idx(raw, f"{name}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    data = MNIST(full=True, root=str(tmp_path))
    data.prepare_data()
    data.setup("fit")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1_000, 5_000, 50]
    assert not keys(data.train) & keys(data.validation)
    assert data.train.images.max() == 1
    assert data.test.labels[:10].tolist() == list(range(10))


def test_full_mnist_offline_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    data = MNIST(full=True, root=str(tmp_path))
    with pytest.raises(DataError, match=r"could not be downloaded .*data\.full. false"):
        data.prepare_data()
    with pytest.raises(DataError, match="MNIST/raw"):
        data.setup("fit")
