import torch

from dmn.explain import CentreGaussian, Edges, Explainer, RandomMap, controls


def test_every_control_is_an_explainer_of_any_image():
    x = torch.rand(4, 3, 10, 12)
    for control in controls().values():
        assert isinstance(control, Explainer)
        maps = control(x, 0)
        assert maps.shape == (4, 1, 10, 12)
        assert maps.dtype == torch.float32
        assert (maps >= 0).all()


def test_random_maps_are_new_each_time_and_follow_the_seed():
    x = torch.rand(2, 1, 5, 5)
    one, other = RandomMap(3), RandomMap(3)
    assert torch.equal(first := one(x), other(x))
    assert not torch.equal(first, one(x))


def test_edges_are_where_the_image_steps():
    x = torch.zeros(1, 1, 8, 8)
    x[..., 4:] = 1
    edges = Edges()(x)
    assert (edges[..., 3:5] > 0).all()
    assert (edges[..., :3] == 0).all()
    assert (edges[..., 5:] == 0).all()
    assert torch.allclose(Edges()(x.mT).mT, edges)


def test_the_centre_is_highest_in_the_middle():
    bump = CentreGaussian()(torch.rand(1, 1, 9, 9))[0, 0]
    assert bump.argmax() == 40
    assert torch.equal(bump, bump.flip(0))
    assert torch.equal(bump, bump.T)
