import numpy as np
import pytest
import torch

from dmn.viz.panels import CELL, DARK, GAP, LABEL, LIGHT, overlay, panel


def test_colours_follow_sign_and_strength():
    x = torch.zeros(1, 1, 1, 4)
    maps = torch.tensor([-2.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 4)
    red, _, blue = overlay(x, maps)[0].unbind(0)
    assert blue[0, 0] > red[0, 0]
    assert red[0, 1] == blue[0, 1] == 1
    assert red[0, 3] > blue[0, 3]
    assert blue[0, 3] < blue[0, 2]  # stronger is deeper
    swapped = overlay(x, maps, against=True)
    assert torch.equal(swapped, overlay(x, -maps))


def test_each_map_has_its_own_scale_and_degenerate_ones_show_the_image():
    x = torch.rand(3, 3, 4, 4)
    maps = torch.rand(3, 1, 4, 4)
    assert torch.allclose(overlay(x, maps), overlay(x, maps * 1000), atol=1e-5)
    bare = overlay(x, torch.zeros(3, 1, 4, 4))
    assert torch.equal(overlay(x, torch.full((3, 1, 4, 4), float("nan"))), bare)
    assert bare.min() >= 0.55


def test_panels_hold_every_picture_where_it_belongs():
    red = torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(2, 3, 4, 4)
    grey = torch.full((2, 1, 4, 4), 0.5)
    picture = np.asarray(panel({"one": red, "two": grey}, ["a", "b"], "caption"))
    assert (picture == [255, 0, 0]).all(-1).sum() == 2 * CELL**2
    assert (picture == [127, 127, 127]).all(-1).sum() >= 2 * CELL**2


def test_a_few_outliers_do_not_leave_the_rest_pale():
    maps = torch.full((1, 1, 40, 40), 0.3)
    maps[0, 0, 0, :4] = 1.0
    picture = overlay(torch.zeros(1, 1, 40, 40), maps)
    assert torch.equal(picture[..., 0, 0], picture[..., 20, 20])
    maps[0, 0, 0, 0] = 1e6  # but what is a tenth of the largest or less is paler
    picture = overlay(torch.zeros(1, 1, 40, 40), maps)
    assert picture[0, 1, 20, 20] > 0.99


@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_is_seen_through_maps_as_it_is(channels):
    """Ink is given as 1 and drawn dark; photographs are given as they are seen."""
    x = torch.zeros(1, channels, 1, 2)
    x[..., 1] = 1
    for maps in (torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)):
        dark, light = overlay(x, maps)[0, :, 0].sum(0)
        assert (dark > light) == (channels == 1)


def test_panels_have_room_for_what_is_written():
    picture = torch.rand(3, 30, 30)
    wide = panel({"t": [picture]}, ["a row with far too long a name"])
    assert wide.width > panel({"t": [picture]}, ["a"]).width == LABEL + CELL + GAP
    broken = panel({"a title with many short words": [picture]}, ["a"])
    assert broken.width == LABEL + CELL + GAP
    assert broken.height > panel({"t": [picture]}, ["a"]).height
    large = panel({"t": [torch.rand(3, 300, 300)]}, ["a"], cell=224)
    assert large.width == LABEL + 224 + GAP


def test_captions_are_broken_into_lines_and_never_cut():
    pictures = {"map": torch.zeros(1, 1, 4, 4)}
    one, many = (np.asarray(panel(pictures, ["a"], text)) for text in ("", "a caption " * 20))
    assert many.shape[1] == one.shape[1]
    assert many.shape[0] > one.shape[0]
    assert (many[:, -GAP:] == 255).all()
    assert (many[one.shape[0] :] < 128).any()


@pytest.mark.parametrize(("height", "width"), [(40, 20), (20, 40), (300, 100)])
def test_pictures_that_are_not_square_keep_their_shape(height, width):
    red = torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(1, 3, height, width)
    picture = np.asarray(panel({"one": red}, ["a"]))
    rows, columns = np.nonzero((picture == [255, 0, 0]).all(-1))
    sides = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(sides) == CELL
    assert sides[0] * width == pytest.approx(sides[1] * height, abs=max(height, width))


@pytest.mark.parametrize("style", [LIGHT, DARK], ids=["light", "dark"])
def test_a_legend_shows_the_colours_of_the_maps(style):
    maps = torch.tensor([-1.0, 0.0, 1.0]).repeat_interleave(20).expand(1, 1, 60, -1)
    coloured = {"map": overlay(torch.zeros(1, 1, 60, 60), maps, style=style)}
    bare = np.asarray(panel(coloured, ["a"], "caption", 300, style))
    whole = np.asarray(panel(coloured, ["a"], "caption", 300, style, legend=True))
    assert np.array_equal(whole[: len(bare)], bare)
    left, background, right = (bare[150, LABEL + at] for at in (10, 150, 290))
    assert (bare[-1] == background).all()  # a map of 0 is the background
    legend = whole[len(bare) :].astype(int)
    shown = [np.nonzero((abs(legend - colour) < 3).all(-1))[1] for colour in (left, right)]
    assert shown[0].max() < shown[1].min()  # from what is against to what is for


def test_on_dark_pages_stronger_is_brighter_and_the_image_is_seen():
    x = torch.zeros(1, 3, 1, 4)
    x[..., 1] = 1
    maps = torch.tensor([0.0, 0.0, 0.5, 1.0]).view(1, 1, 1, 4)
    black, white, weak, strong = overlay(x, maps, style=DARK)[0, :, 0].sum(0)
    assert black < white
    assert black < weak < strong
