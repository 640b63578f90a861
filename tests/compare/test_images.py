"""Compared is what all networks classify correctly."""

import pytest
import torch

from dmn.compare.images import collect
from dmn.errors import DataError


class Says:
    """Predict what a table says of the image whose pixels are its number."""

    def __init__(self, table):
        self.table = torch.tensor(table)

    def predict(self, x):
        return self.table[x.flatten(1)[:, 0].long()]


def batches(labels, size=3, masks=True):
    numbers = torch.arange(len(labels)).float()
    x = numbers.view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    parts = [x, torch.tensor(labels), *([x > 1] if masks else [])]
    return zip(*(part.split(size) for part in parts), strict=True)


def test_the_first_images_right_by_all_are_taken():
    labels = [0, 1, 2, 0, 1, 2, 0]
    both = {"a": Says([0, 0, 2, 0, 1, 2, 0]), "b": Says([0, 1, 2, 1, 1, 2, 0])}
    images = collect(batches(labels), both, 3)
    assert images.x[:, 0, 0, 0].tolist() == [0, 2, 4]
    assert images.y.tolist() == [0, 2, 1]
    assert images.masks.shape == (3, 1, 2, 2)
    assert images.seen == 5
    every = collect(batches(labels, masks=False), both, 10)
    assert every.x[:, 0, 0, 0].tolist() == [0, 2, 4, 5, 6]
    assert every.masks is None
    assert every.seen == 7
    assert len(every.first(2)) == 2


@pytest.mark.torture(
    "`dmn compare` needs three images, and the fourth cannot be read", "it is never asked for"
)
def test_batches_after_the_last_image_are_not_read():
    def endless():
        yield from batches([0, 0, 0])
        raise AssertionError("read on")

    assert len(collect(endless(), {"a": Says([0, 0, 0])}, 3)) == 3


def test_no_right_image_is_an_error_that_names_the_networks():
    with pytest.raises(DataError, match=r"of 2 images none .* all of a, b"):
        collect(batches([0, 1]), {"a": Says([0, 0]), "b": Says([1, 1])}, 1)
