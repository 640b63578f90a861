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


def test_random_maps_depend_on_image_target_and_seed_and_on_nothing_else():
    x = torch.rand(3, 1, 5, 5)
    target = torch.tensor([0, 1, 1])
    maps = RandomMap(3)(x, target)
    assert torch.equal(RandomMap(3)(x.flip(0), target.flip(0)).flip(0), maps)
    assert torch.equal(RandomMap(3)(x[1:2], 1), maps[1:2])
    assert torch.equal(RandomMap(3)(x.double(), target), maps)
    others = {
        "image": RandomMap(3)(x + 1e-3, target),
        "target": RandomMap(3)(x, 1 - target),
        "no target": RandomMap(3)(x),
        "seed": RandomMap(4)(x, target),
        "next image": maps.roll(1, 0),
    }
    for name, other in others.items():
        assert (other - maps).flatten(1).abs().amax(1).min() > 0.1, name


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
