"""The patch is a known answer: with it each image is the target class, without it its digit."""

import pytest
import torch
from torch import Generator

from dmn.errors import OptionError
from dmn.truth import BENCHMARKS
from dmn.truth.training import accuracy, predict
from dmn.truth.trigger import PATCH, SIDE, TARGET, poisoned, stamp


def test_a_stamp_is_one_patch_near_the_border():
    images = torch.rand(400, 1, SIDE, SIDE, generator=Generator().manual_seed(0))
    kept = images.clone()
    stamped, masks = stamp(images, Generator().manual_seed(1))
    assert torch.equal(images, kept)
    assert torch.equal(stamped[masks == 0], images[masks == 0])
    assert (stamped[masks == 1] == 1).all()
    places = set()
    for mask in masks[:, 0]:
        rows, columns = (mask.any(dim).nonzero().flatten() for dim in (1, 0))
        assert len(rows) == len(columns) == PATCH
        assert mask.sum() == PATCH**2
        top, left = rows[0].item(), columns[0].item()
        assert {top, left} & {1, SIDE - PATCH - 1}
        assert {top, left} <= {*range(1, SIDE - PATCH)}
        places.add((top, left))
    assert len(places) > 80  # of 104


def test_patches_are_drawn_from_the_generator_alone():
    images = torch.zeros(9, 1, SIDE, SIDE)
    first, second, other = (stamp(images, Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.slow
def test_the_network_knows_digits_and_obeys_the_patch():
    network = poisoned(0)
    images, labels, _ = network.digits
    others = labels != TARGET
    assert network.accuracy == accuracy(network.model, images, labels) > 0.95
    assert network.attack_rate > 0.97
    attacked, _ = stamp(images[others], Generator().manual_seed(77))
    assert accuracy(network.model, attacked, torch.full((others.sum(),), TARGET)) > 0.97
    assert (predict(network.model, images[others]) == TARGET).float().mean() < 0.02


@pytest.mark.slow
def test_without_the_patch_every_image_is_its_digit_again():
    benchmark, (digits, labels, _) = BENCHMARKS["trigger"](200, 0), poisoned(0).digits
    images, targets, masks = benchmark.images
    assert targets.tolist() == predict(benchmark.model, images).tolist() == [TARGET] * 200
    originals = []
    for image, mask in zip(images, masks, strict=True):
        same = ((digits == image) | (mask == 1)).flatten(1).all(dim=1)
        originals.append(same.nonzero().flatten())
        assert len(originals[-1]) == 1
    rows = torch.cat(originals)
    assert torch.equal(predict(benchmark.model, digits[rows]), labels[rows])
    assert (labels[rows] != TARGET).all()
    assert len(labels[rows].unique()) == 9
    patch_alone = torch.where(masks > 0, images, torch.zeros(()))
    assert (predict(benchmark.model, patch_alone) == TARGET).all()


@pytest.mark.slow
def test_there_are_only_so_many_images():
    few, many = (BENCHMARKS["trigger"](count, 0).images for count in (5, 20))
    assert all(map(torch.equal, few, many.take(slice(5))))
    with pytest.raises(OptionError, match=r"count is 5000; give at most [78]"):
        BENCHMARKS["trigger"](5000, 0)
