"""Where an output has the places of an image, by shapes alone, and what is none."""

import pytest
import torch

from dmn.nn import Grid, GridFinder

APART, LAST = Grid((4, 6)), Grid((4, 6), channels=-1)


def grids(image, *shapes):
    """Return what is found for outputs of two images with these sides, in order."""
    finder = GridFinder((2, 3, *image))
    return [finder.find((2, *shape)) for shape in shapes]


def tokens(sides, prefix=0, channels=-1):
    return Grid(sides, channels, True, prefix)


@pytest.mark.parametrize("prefix", [0, 1, 2, 5, 12])
@pytest.mark.parametrize("width", [16, 25, 64, 192])
def test_tokens_have_the_sides_of_the_patches(prefix, width):
    found = grids((32, 48), (width, 4, 6), (24, width), (24 + prefix, width))
    assert found == [APART, tokens((4, 6)), tokens((4, 6), prefix)]


def test_of_tokens_alone_the_sides_follow_from_the_image():
    assert grids((32, 48), (24, 10)) == [tokens((4, 6))]
    assert grids((32, 48), (29, 10)) == [tokens((4, 6), 5)]
    assert grids((224, 224), (197, 64)) == [tokens((14, 14), 1)]
    assert grids((32, 32), (23, 10)) == [None]  # dropped tokens


@pytest.mark.parametrize(("image", "merged"), [((64, 96), (4, 6)), ((60, 92), (4, 6))])
def test_merged_tokens_have_the_sides_divided(image, merged):
    rows, columns = (side // 8 for side in image)
    count = merged[0] * merged[1]
    found = grids(image, (8, rows, columns), (rows * columns, 8), (count, 32), (1 + count, 32))
    assert found == [
        Grid((rows, columns)),
        tokens((rows, columns)),
        tokens(merged),
        tokens(merged, 1),
    ]


def test_tokens_may_come_last():
    """As in the mixing of tokens by an MLP-Mixer, whose hidden layers hold none."""
    found = grids((32, 48), (64, 4, 6), (24, 64), (64, 40), (64, 24), (24, 64))
    assert found == [APART, tokens((4, 6)), None, tokens((4, 6), 0, 1), tokens((4, 6))]


def test_channels_may_come_last():
    found = grids((32, 48), (16, 4, 6), (4, 6, 16), (4, 6, 64), (2, 3, 32), (32, 2, 3), (32, 1, 1))
    halves = Grid((2, 3))
    assert found == [APART, LAST, LAST, Grid((2, 3), -1), halves, Grid((1, 1))]


def test_if_both_orders_fit_the_channels_stay_where_they_were():
    first, last = Grid((8, 8)), Grid((8, 8), channels=-1)
    assert grids((32, 32), (8, 8, 8)) == [first]
    assert grids((32, 32), (16, 8, 8), (8, 8, 16), (8, 8, 8)) == [first, last, last]
    assert grids((64, 32), (8, 8, 4), (4, 4, 2)) == [Grid((8, 4), 1), Grid((4, 2), 1)]


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("image", [(32, 32), (32, 48)])
def test_attention_is_no_image(image, prefix):
    rows, columns = (side // 8 for side in image)
    count = rows * columns + prefix
    start = [(16, rows, columns), (count, 16)]
    inside = [(2, count, count), (2, count, 8), (2, 8, count), (count, 2, 8), (2, 8, 8)]
    inside += [(3, 2, count, 8), (1, 16), (16,), (16, 1)]
    assert grids(image, *start, *inside)[2:] == [None] * len(inside)


@pytest.mark.parametrize("start", [[(64, 56, 56)], [(64, 56, 56), (56, 56, 64)]])
def test_windows_are_no_image(start):
    windows = [(64, 49, 64), (49, 64, 64), (64, 49, 192), (8, 7, 8, 7, 64)]
    found = grids((224, 224), *start, *windows, (64, 28, 28))
    assert found[len(start) :] == [None] * len(windows) + [Grid((28, 28))]
    assert grids((64, 64), (96, 8, 8), (96, 16, 4)) == [Grid((8, 8)), None]
    finder = GridFinder((2, 3, 224, 224))
    assert finder.find((128, 49, 64)) is finder.find((1, 14, 14)) is None


@pytest.mark.parametrize("window", [7, 8])  # as large as an earlier grid, or not
@pytest.mark.parametrize("features", [32, 64])  # as many as tokens in a window, or not
def test_padded_windows_are_no_image(window, features):
    inside = [(window, window, features), (window**2, features), (window**2, 3 * features)]
    earlier, merged = [(16, 8, 8), (8, 8, 16)], (4, 4, features)
    found = grids((64, 64), *earlier, merged, *inside, merged)
    assert found[2:] == [Grid((4, 4), -1), None, None, None, Grid((4, 4), -1)]
    found = grids((64, 96), (16, 4, 6), (4, 6, 16), (4, 8, 16))
    assert found == [APART, LAST, None]


def test_tokens_may_be_pooled_and_come_back():
    """As keys and values in a PVT; the tokens that come back have the features of those before."""
    pooled = [(16, 2, 3), (6, 16), (6, 32)]
    found = grids((32, 48), (16, 4, 6), (24, 16), *pooled, (24, 16), (24, 64), (4, 6, 16))
    whole = tokens((4, 6))
    expected = [Grid((2, 3)), tokens((2, 3)), tokens((2, 3))]
    assert found == [APART, whole, *expected, whole, whole, LAST]


@pytest.mark.parametrize(
    "shapes",
    [
        [(8, 30, 46), (8, 28, 44), (16, 14, 22), (64, 1, 1)],  # without padding
        [(8, 16, 48), (16, 8, 48), (32, 4, 48)],  # strides along one axis
        [(8, 8, 12), (64, 4, 6), (24, 2, 3), (8, 4, 6), (8, 8, 12)],  # down and up again
        [(4, 2, 3), (6, 4, 6), (8, 8, 12), (3, 32, 48)],  # up only
        [(96, 8, 12), (96, 4, 6), (8, 4, 6), (96, 1, 1), (8, 4, 6)],  # as many channels as places
    ],
)
def test_convolutions_have_their_channels_first(shapes):
    assert grids((32, 48), *shapes) == [Grid(shape[1:]) for shape in shapes]


@pytest.mark.parametrize("sides", [(10,), (3, 4, 5)])
def test_of_signals_and_volumes_the_features_of_a_layer_tell(sides):
    finder = GridFinder((2, 1, *(2 * side for side in sides)))
    assert finder.find((2, 6, *sides)) == Grid(sides)
    assert finder.find((2, *sides, 6), features=6) == Grid(sides, channels=-1)
    assert finder.find((2, 6)) is None


@pytest.mark.parametrize(
    ("grid", "shape"),
    [
        (APART, (2, 7, 4, 6)),
        (LAST, (2, 4, 6, 7)),
        (tokens((4, 6)), (2, 24, 7)),
        (tokens((4, 6), 3), (2, 27, 7)),
        (tokens((4, 6), 3, 1), (2, 7, 27)),
    ],
)
def test_images_have_every_place_where_it_is(grid, shape):
    x = torch.rand(shape)
    image = grid.to_image(x)
    assert image.shape == (2, 7, 4, 6)
    for row in range(4):
        for column in range(6):
            place = grid.prefix + 6 * row + column if grid.flat else (row, column)
            index = (place,) if grid.flat else place
            where = (0, slice(None), *index) if grid.channels == 1 else (0, *index)
            assert torch.equal(image[0, :, row, column], x[where])


def test_what_fits_a_grid():
    assert LAST.fits((5, 9, 9, 9))
    assert not LAST.fits((5, 24, 9))
    assert tokens((4, 6), 1).fits((5, 25, 9))
    assert tokens((4, 6), 1, 1).fits((5, 9, 25))
    assert not any(tokens((4, 6), 1).fits(shape) for shape in [(5, 24, 9), (5, 9, 25), (5, 25)])
