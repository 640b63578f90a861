"""Letters: of MNIST's form, from disjoint typefaces, and all of it follows from a seed."""

import pytest
import torch

from dmn.data import Letters
from dmn.data.letters import FONTS, LETTERS, _glyphs

MEAN = 0.1307  # MNIST's
PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def letters():
    data = Letters()
    data.setup("fit")
    return data


def test_parts_are_balanced_take_turns_and_have_the_documented_size(letters):
    assert letters.classes == tuple("ABCDEFGHIJ")
    for part, size in zip(PARTS, (300, 500, 1_000), strict=True):
        labels = getattr(letters, part).labels
        assert len(labels) == size
        assert labels.view(-1, 10).equal(torch.arange(10).expand(size // 10, 10))


def test_images_are_like_mnists_in_form_and_scale(letters):
    for part in PARTS:
        images = getattr(letters, part).images
        assert images.shape[1:] == (1, 28, 28)
        assert images.dtype == torch.float32
        assert images.min() == 0
        assert 0.8 < images.max() <= 1
        assert images.mean() == pytest.approx(MEAN, rel=0.5)
        corners = images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.mean() < 0.01  # black around


def test_typefaces_are_disjoint_and_have_every_letter():
    every = [font for fonts in FONTS.values() for font in fonts]
    assert len(set(every)) == len(every)
    for font in every:
        glyphs = _glyphs(font)
        assert glyphs.flatten(1).unique(dim=0).shape[0] == len(LETTERS)
        inked = glyphs[:, 0] > 0
        for axis in (1, 2):
            where = inked.any(dim=axis)
            first, last = where.int().argmax(1), 27 - where.flip(1).int().argmax(1)
            assert (last - first < 20).all()
            assert ((first + last - 27).abs() <= 2).all()  # centred
    boxes = torch.stack([inked.any(dim=axis).sum(1) for axis in (1, 2)])
    assert (boxes.amax(dim=0) >= 19).all()  # each fills its box


def test_no_two_images_are_the_same(letters):
    images = torch.cat([getattr(letters, part).images for part in PARTS]).flatten(1)
    assert len(images.unique(dim=0)) == len(images)


def test_masks_are_the_strokes(letters):
    batch = next(iter(letters.val_dataloader()))
    assert batch.image.shape == batch.mask.shape == (250, 1, 28, 28)
    share = batch.mask.mean(dim=(1, 2, 3))
    assert share.min() > 0.02
    assert share.max() < 0.45
    assert (batch.mask <= batch.image.gt(0)).all()


def test_letters_follow_from_the_seed_alone(letters):
    again, other = Letters(), Letters(seed=1)
    for data in (again, other):
        data.setup("test")
    for part in PARTS:
        assert getattr(letters, part).images.equal(getattr(again, part).images)
        assert not getattr(letters, part).images.equal(getattr(other, part).images)
    keys = [(3, 5), (3, 1)]
    first = letters.train.__getitems__(keys).image
    again.train.__getitems__([(0, 0)])
    assert first.equal(again.train.__getitems__(keys).image)
    assert not first.equal(letters.train.__getitems__([(4, 5), (4, 1)]).image)  # epochs differ


def test_fewer_images_and_no_augmentation():
    data = Letters(per_class=3, augment=False, batch_size=10)
    data.setup("fit")
    assert len(data.train) == 30
    one, two = (data.train.__getitems__([(epoch, 4)]).image for epoch in (0, 1))
    assert one.equal(two)
    assert len(data.train_dataloader()) == 3
