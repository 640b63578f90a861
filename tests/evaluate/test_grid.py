"""The grid pointing game, on images whose class is their colour."""

import literal_metrics as literal
import numpy as np
import pytest
import torch
from torch import nn

from dmn.evaluate import score
from dmn.evaluate.grid import tile
from dmn.explain import CentreGaussian, RandomMap

CLASSES = 5


class Colours(nn.Module):
    """Class k is the mean of channel k, at any size."""

    def forward(self, x):
        return 20 * x.mean(dim=(2, 3))


def own_colour(x, target):
    return x[torch.arange(len(x)), target].unsqueeze(1)


def grid(explainer, x, y, model=None, **options):
    model = model or Colours().eval()
    return score(["GridPointingGame"], model, explainer, x, y, **options)["GridPointingGame"]


@pytest.fixture
def colours():
    """Two images each of five classes, of different strength."""
    y = torch.arange(10) % CLASSES
    x = torch.zeros(10, CLASSES, 6, 4)
    x[torch.arange(10), y] = (torch.rand(10, 6, 4) + 0.1) * torch.linspace(1, 2, 10).view(-1, 1, 1)
    return x, y


def test_the_right_map_wins_and_maps_that_know_nothing_get_their_share(colours):
    x, y = colours
    right = grid(own_colour, x, y)
    assert right.n == 8
    assert (right.values[np.isfinite(right.values)] == 1).all()
    assert right.remarks == {"left over by mosaics of 4 classes": 2}
    assert grid(RandomMap(), x, y).mean == pytest.approx(0.25, abs=0.05)
    centre = grid(CentreGaussian(), x, y).values
    assert centre[np.isfinite(centre)] == pytest.approx([0.25] * 8)
    wrong = grid(lambda x, target: own_colour(x, (target + 1) % CLASSES), x, y)
    assert wrong.mean < 1e-6 or wrong.n < 8  # the other class may be in no tile


def test_shares_are_those_of_the_definition(colours):
    x, y = colours
    x, y = x[:4] + 0.3 * torch.rand(4, CLASSES, 6, 4), y[:4]
    order = torch.tensor([3, 2, 1, 0])  # the surest image is the first tile
    sure = Colours()(x).softmax(1)[torch.arange(4), y]
    assert torch.equal(sure.argsort(descending=True), order)

    def signed(image, target):
        return own_colour(image, target).sub(0.1)

    def explain(image, target):
        return signed(torch.from_numpy(image)[None], [target])[0, 0].double().numpy()

    tiles, classes = x[order].numpy(), y[order].tolist()
    expected = [literal.grid_share(explain, tiles, classes, place) for place in range(4)]
    assert len(set(expected)) == 4
    assert grid(signed, x, y).values[order] == pytest.approx(expected, rel=1e-5)


def test_tiles_lie_row_by_row():
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 2, 3, 5)
    mosaics = tile(images)
    assert mosaics.shape == (2, 2, 6, 10)
    assert mosaics[1, 1, ::3, ::5].tolist() == [[4, 5], [6, 7]]


def test_only_what_the_network_gets_right_is_in_a_mosaic_and_each_image_once(colours):
    x, y = colours
    said = y.clone()
    said[7] = 0
    seen = []

    def watch(x, target):
        seen.append((x, target))
        return own_colour(x, target)

    result = grid(watch, x, said)
    assert result.reasons[7] == "not classified as this class"
    assert np.isnan(result.values[7])
    mosaics, targets = (torch.cat(parts) for parts in zip(*seen[1:], strict=True))
    assert mosaics.shape == (8, CLASSES, 12, 8)
    for place in range(0, 8, 4):
        assert len(set(targets[place : place + 4].tolist())) == 4
        assert (mosaics[place] == mosaics[place + 3]).all()


def test_mosaics_are_the_same_for_any_explainer_batch_and_order(colours):
    x, y = colours
    maps = torch.zeros(10, 1, 6, 4)  # none of which could be scored itself

    def blind(x, target):
        return maps if x.shape[-1] == 4 else own_colour(x, target)

    whole = grid(own_colour, x, y)
    assert np.array_equal(grid(blind, x, y).values, whole.values, equal_nan=True)
    turned = grid(RandomMap(), x.flip(0), y.flip(0), batch_size=1).values[::-1]
    assert np.array_equal(turned, grid(RandomMap(), x, y).values, equal_nan=True)


def test_few_are_left_over():
    y = torch.tensor([0] * 4 + [1] * 4 + [2] * 4 + [3] * 2 + [4] * 2)
    x = nn.functional.one_hot(y, CLASSES).float()[..., None, None] * (1 + torch.rand(16, 1, 3, 3))
    assert grid(own_colour, x, y).n == 16


def test_a_network_of_one_size_is_said_to_be(colours):
    class Fixed(nn.Module):
        def forward(self, x):
            return Colours()(x.view(-1, CLASSES, 6, 4))

    def explain(x, target):
        return own_colour(x.view(-1, CLASSES, 6, 4), target)

    x, y = colours
    remarks = grid(explain, x, y, Fixed().eval()).remarks
    reason = max(remarks, key=remarks.get)
    assert remarks[reason] == 8
    assert reason.startswith("UnsupportedError: no map of a mosaic of 12 x 8 pixels: ")


def test_maps_without_positive_evidence_have_no_share(colours):
    result = grid(lambda x, target: -own_colour(x, target), *colours)
    assert result.n == 0
    assert result.remarks["the score is not a number"] == 8


def test_too_few_classes_make_no_mosaic(colours):
    x, y = colours
    result = grid(own_colour, x[y < 3], y[y < 3])
    assert result.remarks == {"left over by mosaics of 4 classes": 6}
