"""What is made or loaded inside inference mode, as in Lightning's validation, can be explained."""

from functools import partial

import pytest
import torch
from rival_networks import NETWORKS, POST_HOC, options
from small_pairs import fronted_pair, tiny_pair

import dmn
from dmn.canonize import canonize, hookable
from dmn.errors import UnsupportedError
from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.hub import load, save_converted
from dmn.split import FrontAdapter, ResplitExplainer, mirror, split, unfold_front


@pytest.fixture
def folder(tmp_path):
    save_converted(split(NETWORKS["resnet"]()), tmp_path / "split.safetensors")
    return tmp_path


MADE = {
    "split": lambda folder: split(NETWORKS["resnet"]()),
    "canonize": lambda folder: canonize(NETWORKS["resnet"]()),
    "hookable": lambda folder: hookable(NETWORKS["resnet"]()),
    "mirror": lambda folder: mirror(NETWORKS["vgg"]()),
    "written_out": lambda folder: unfold_front(fronted_pair()),
    "hub.load": lambda folder: load("squeezenet1_1", num_classes=3).model,
    "converted": lambda folder: (
        load(folder / "split.safetensors", model=NETWORKS["resnet"]()).model
    ),
    "dmn.load": lambda folder: dmn.load("mnist_paired").model,
}


@pytest.mark.parametrize("name", MADE)
def test_weights_are_made_to_be_differentiated(name, folder):
    with torch.inference_mode():
        made = MADE[name](folder)
        held = [*made.parameters(), *made.buffers()]
    assert held
    assert not any(each.is_inference() for each in held)


SPLIT = {"SplitCAM": SplitCAM, "SplitGrad": SplitGrad, "SplitLRP": SplitLRP}


@pytest.mark.parametrize("method", SPLIT)
def test_split_explainers_made_inside_give_the_same_maps(method, images):
    # One layer is named, for SplitCAM's own is found by an example, which only some of them get.
    model, kind = NETWORKS["resnet"](), partial(SPLIT[method], layer="input")
    outside = kind(split(model))(images, 1)
    with torch.inference_mode():
        for maps in (
            kind(split(model))(images, 1),
            kind(split(model, images.clone()))(images.clone(), torch.ones(5, dtype=torch.long)),
            ResplitExplainer(model, kind)(images.clone(), 1),
        ):
            assert torch.equal(maps, outside)


def test_a_front_read_inside_gives_the_same_map():
    net, x = fronted_pair(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    outside = SplitCAM(FrontAdapter(net), "input")(x, 1)
    with torch.inference_mode():
        assert torch.equal(SplitCAM(FrontAdapter(net), "input")(x.clone(), 1), outside)


@pytest.mark.parametrize("method", POST_HOC)
@pytest.mark.parametrize("network", ["resnet", "difference"])
def test_baselines_made_inside_give_the_same_maps(method, network, images):
    model = NETWORKS[network]()
    outside = POST_HOC[method](model, **options(method, network))(images, 1)
    with torch.inference_mode():
        inside = POST_HOC[method](model, **options(method, network))
        assert torch.equal(inside(images.clone(), 1), outside)
        if network == "resnet":
            ready = canonize(model)
            assert POST_HOC[method](ready, **options(method, "canonized"))(images, 1).any()


@pytest.mark.parametrize("method", ["Gradient", "GradCAM", "SplitCAM"])
def test_a_network_made_inside_is_refused_by_what_differentiates_it(method, images):
    with torch.inference_mode():
        if method == "SplitCAM":
            model = tiny_pair()
            with pytest.raises(UnsupportedError, match=r"outside of torch\.inference_mode"):
                model.explain(images, 1)
        else:
            model = NETWORKS["resnet"]()
            explainer = POST_HOC[method](model, **options(method, "resnet"))
            with pytest.raises(UnsupportedError, match="ResNet was made in inference mode"):
                explainer(images, 1)
        copied = split(NETWORKS["resnet"]())  # of which the weights are copied outside
    assert copied.explain(images, 1).any()
