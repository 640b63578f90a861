"""A program of forward operations computes what the explainer does, for any batch."""

import pytest
import torch
from effort import slow_except
from small_pairs import tiny_pair
from torch import nn

from dmn.errors import UnsupportedError
from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.models import DifferenceOfMonotone
from dmn.nn import predict_logits
from dmn.onnx import explanation, export_program
from dmn.split import split


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2),
        nn.Sigmoid(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()


def split_pair():
    return split(small_network(), torch.rand(2, 2, 8, 8)), (2, 8, 8)


def trained_pair():
    return tiny_pair().float(), (1, 8, 8)


def images(count, size):
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(count))


CASES = {
    "LRP": (split_pair, SplitLRP, {}),
    "LRP of a late layer": (split_pair, SplitLRP, {"layer": "3"}),
    "LRP with contrast": (split_pair, SplitLRP, {"contrast": True}),
    "LRP of softmax": (split_pair, SplitLRP, {"contrast": "sglrp", "alpha": 0.2}),
    "CAM": (split_pair, SplitCAM, {"stream": "g", "part": "p", "alpha": 0.48}),
    "CAM balanced": (split_pair, SplitCAM, {"alpha": "balanced", "stream": "g"}),
    "Grad": (split_pair, SplitGrad, {"stream": "h", "alpha": 0.4, "contrast": True}),
    "LRP of a pair": (trained_pair, SplitLRP, {}),
    "CAM of a pair": (trained_pair, SplitCAM, {"stream": "h"}),
    "Grad of a pair": (trained_pair, SplitGrad, {"stream": "g"}),
}


@pytest.mark.parametrize("case", slow_except(["LRP", "CAM", "LRP of a pair"], CASES))
def test_the_program_is_the_explainer(case):
    make, method, options = CASES[case]
    pair, size = make()
    explainer = method(pair, **options)
    program = export_program(explainer, images(2, size), target=True).module()
    for count in (1, 5):
        x = images(count, size) * 3
        target = torch.arange(count) % 3
        logits, maps = program(x, target)
        torch.testing.assert_close(logits, predict_logits(pair, x), rtol=1e-5, atol=1e-6)
        expected = explainer(x, target)
        assert (maps - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert expected.abs().max() > 0


def test_the_predicted_class_is_explained_and_no_autograd_is_left():
    pair, size = trained_pair()
    x = images(16, size)
    pair.g.net.head.bias.data -= pair(x).detach().mean(0)  # so that no class wins everywhere
    explainer = SplitLRP(pair)
    streams = ("g", "h", "g-h")
    program = export_program(explainer, images(2, size), streams)
    called = {str(node.target) for node in program.graph.nodes}
    assert not [name for name in called if "backward" in name]
    logits, *maps = program.module()(x)
    assert len(logits.argmax(1).unique()) > 1
    for found, expected in zip(maps, explainer.streams(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_program_can_be_compiled():
    pair, size = trained_pair()
    x = images(3, size)
    program = export_program(SplitGrad(pair), x).module()
    compiled = torch.compile(program, backend="aot_eager", fullgraph=True)
    for found, expected in zip(compiled(x), program(x), strict=True):
        torch.testing.assert_close(found, expected)


def test_images_in_pixels_are_normalised_inside():
    pair, size = split_pair()
    explainer = SplitLRP(pair)
    x = images(3, size)
    logits, maps = explanation(explainer, ("g-h",), lambda image: (image - 0.5) / 0.25)(x)
    given = (x - 0.5) / 0.25
    assert torch.equal(logits, predict_logits(pair, given))
    assert torch.equal(maps, explainer(given))


def test_depth_does_not_overflow_in_the_program():
    """Units of a power of two are those of the example, and serve other images."""
    torch.manual_seed(0)
    layers = [each for _ in range(40) for each in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    for layer in layers[::2]:
        layer.weight.data *= 3
    head = [nn.Flatten(), nn.Linear(8 * 16, 3)]
    net = nn.Sequential(nn.Conv2d(1, 8, 1), *layers, *head).eval()
    explainer = SplitLRP(split(net, torch.rand(1, 1, 4, 4)), alpha=0.1, stream="g")
    program = export_program(explainer, torch.rand(1, 1, 4, 4), target=True).module()
    x, target = torch.rand(4, 1, 4, 4) * 100, torch.tensor([0, 1, 2, 0])
    _, maps = program(x, target)
    expected = explainer(x, target)
    assert expected.isfinite().all()
    ratio = (maps / expected)[expected.abs() > 1e-3 * expected.abs().max()]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)


def test_other_explainers_are_refused():
    pair, size = trained_pair()
    assert isinstance(pair, DifferenceOfMonotone)
    with pytest.raises(UnsupportedError, match="SplitCAM, SplitGrad and SplitLRP can"):
        export_program(lambda x, target=None: x, images(2, size))
