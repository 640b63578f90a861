import numpy as np
import torch

from dmn.explain.render import CELL, overlay, panel


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
    assert bare.min() >= 0.7


def test_panels_hold_every_picture_where_it_belongs():
    red = torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(2, 3, 4, 4)
    grey = torch.full((2, 1, 4, 4), 0.5)
    picture = np.asarray(panel({"one": red, "two": grey}, ["a", "b"], "caption"))
    assert (picture == [255, 0, 0]).all(-1).sum() == 2 * CELL**2
    assert (picture == [127, 127, 127]).all(-1).sum() >= 2 * CELL**2
