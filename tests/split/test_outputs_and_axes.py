"""Networks as users write them are split: any form of logits, any number of axes."""

import pytest
import torch
from torch import nn
from user_networks import (
    FORMS,
    BumpDetector,
    Required,
    inputs,
    made,
    planted,
    share_inside,
    thin_and_thick,
)

from dmn.canonize import canonize
from dmn.errors import DataError, TargetError, UnsupportedError
from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.split import split

METHODS = (SplitCAM, SplitGrad, SplitLRP)
STREAMS = ("g", "h", "g-h")


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_logits_make_no_difference(form):
    plain, model, x = made(lambda logits: logits), made(form), inputs(2)
    expected, pair = split(plain, x), split(model, x)
    assert torch.equal(pair(x), plain(x))
    assert torch.equal(split(model)(x), plain(x))
    assert torch.allclose(canonize(model, x)(x), plain(x))
    if form != "optional arguments":  # scales the logits, and so has a layer more
        assert pair.layers == expected.layers
    for method in METHODS:
        for stream in STREAMS:
            options = {"stream": stream, "part": "p"}
            for layer in ("input", "conv"):
                maps = method(pair, layer, **options)(x)
                assert torch.allclose(maps, method(expected, layer, **options)(x), rtol=1e-6)
    assert pair.certificate(x).prediction == pair.certificate(x).gradient == 0


def test_one_logit_for_each_image_is_one_class():
    column, squeezed = made(lambda logits: logits, 1), made(lambda logits: logits[:, 0], 1)
    x = inputs(2)
    expected, pair = split(column, x), split(squeezed, x)
    assert squeezed(x).shape == (3,)
    assert torch.equal(pair(x), column(x))
    assert torch.equal(pair.g(x), expected.g(x).flatten())
    for method in METHODS:
        for target in (None, 0, [0, 0, 0]):
            maps = method(pair, stream="g")(x, target)
            assert torch.equal(maps, method(expected, stream="g")(x))
        for model in (pair, expected):
            with pytest.raises(TargetError, match="its one logit is class 0"):
                method(model)(x, 1)
            with pytest.raises(TargetError, match="contrast needs two classes"):
                method(model, contrast=True)(x)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (lambda logits: {"out": logits}, r"Tail returns dict of keys out, .* wrap it in a module"),
        (lambda logits: None, r"Tail returns NoneType, .* wrap it in a module"),
        (lambda logits: (), r"Tail returns tuple of nothing, "),
        (lambda logits: logits[:, :, None, None], r"returns \(3, 3, 1, 1\) .*sum over pixels"),
        (lambda logits: logits.sum(), r"returns \(\) of torch.float64 for 3 images"),
        (lambda logits: logits.sum(0), "returns"),
    ],
)
def test_what_are_no_logits_is_refused_in_one_line(turn, message):
    x = inputs(2)[:3]
    model = made(turn, classes=3 if message != "returns" else 4)
    for attempt in (lambda: split(model, x), lambda: SplitLRP(split(model))(x, 0)):
        with pytest.raises(UnsupportedError, match=message) as refusal:
            attempt()
        assert len(refusal.value.lines) == 1


def test_a_second_input_is_refused_in_one_line():
    for transform in (split, canonize):
        with pytest.raises(UnsupportedError, match="requires age besides the images; wrap"):
            transform(made(Required))


def test_pixels_of_a_segmentation_are_summed_by_a_wrapper():
    class Segmentation(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv2d(2, 4, 3, 2, 1), nn.ConvTranspose2d(4, 4, 2, 2)
            self.head = nn.Conv2d(6, 3, 1)

        def forward(self, x):
            return self.head(torch.cat([x, self.up(self.down(x).relu()).relu()], 1))

    class Summed(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x).sum((2, 3))

    net, x = Segmentation().double().eval(), inputs(2)
    pair = split(Summed(net), x)
    assert torch.equal(pair(x), net(x).sum((2, 3)))
    for method in METHODS:
        assert method(pair, stream="g")(x, 1).abs().max() > 0
    with pytest.raises(UnsupportedError, match=r"Segmentation returns \(3, 3, 16, 12\)"):
        split(net, x)


# -- axes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("axes", [1, 2])
def test_an_axis_of_length_one_makes_no_difference(axes, overlap):
    net, other = thin_and_thick(axes, overlap)
    x = inputs(axes)
    thick = x.unsqueeze(2)
    for options in ({}, {"pool": "convex", "theta": 1.0}):
        pair, expected = split(net, x, **options), split(other, thick, **options)
        assert torch.equal(pair(x), net(x))
        assert pair.layers == expected.layers
        for method in METHODS:
            for layer in ("input", "pool", "average"):
                for stream in STREAMS:
                    maps = method(pair, layer, stream)(x)
                    wanted = method(expected, layer, stream)(thick).squeeze(2)
                    assert maps.shape == (3, 1, *x.shape[2:])
                    assert torch.allclose(maps, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max())


@pytest.mark.parametrize("axes", [1, 3])
def test_a_certificate_holds_for_signals_and_volumes(axes):
    net, x = thin_and_thick(1)[0] if axes == 1 else thin_and_thick(2)[1], inputs(axes)
    certificate = split(net, x, pool="convex", theta=1.0).certificate(x)
    assert certificate.prediction == 0
    assert certificate.monotone == certificate.convex == "holds in 4 samples"


@pytest.mark.parametrize("stream", ["g", "g-h"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_bump_that_decides_gets_the_relevance(axes, stream):
    x, y, masks = planted(axes)
    model = BumpDetector(axes).eval()
    assert torch.equal(model(x).argmax(1), y)
    maps = SplitLRP(split(model, x), stream=stream, part="p")(x, y)
    assert share_inside(maps, masks).min() >= 0.8


# -- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize("target", [None, 0])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 16, 12), r"conv \(Conv2d\) takes \(B, 2, H, W\), and gets \(2, 3, 16, 12\)"),
        ((2, 16, 12), r"conv \(Conv2d\) takes \(B, 2, H, W\), and gets \(2, 16, 12\)"),
        ((2, 2, 4, 16, 12), r"conv \(Conv2d\) takes \(B, 2, H, W\)"),
        ((16, 12), r"shape \(16, 12\); give signals \(B, C, L\), images"),
    ],
)
def test_images_of_other_channels_or_ranks_are_told(shape, message, target):
    pair = split(made(lambda logits: logits))
    with pytest.raises(DataError, match=message) as refusal:
        SplitGrad(pair)(torch.rand(shape, dtype=torch.float64), target)
    assert len(refusal.value.lines) == 1


def test_one_image_without_a_batch_is_not_taken_for_many():
    """Torch takes it, and its logits, as many as it has channels, look like one for each image."""
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(0)).eval()
    x = torch.rand(3, 8, 8)
    assert model(x).shape == (3,)
    for attempt in (lambda: split(model, x), lambda: SplitLRP(split(model))(x, 0)):
        with pytest.raises(DataError, match=r"takes \(B, 3, H, W\), and gets \(3, 8, 8\)"):
            attempt()


@pytest.mark.parametrize("types", [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_images_of_another_type_than_the_weights_are_told(types):
    weights, images = types
    pair = split(made(lambda logits: logits).to(weights))
    with pytest.raises(DataError, match=rf"conv \(Conv2d\) takes {weights}, and gets {images}"):
        pair(inputs(2).to(images))
    with pytest.raises(DataError, match=rf"takes {weights}, and gets {images}"):
        SplitCAM(pair, "conv")(inputs(2).to(images))


@pytest.mark.parametrize("x", [torch.zeros(2, 2, 8, 8, dtype=torch.uint8), [[1.0]]])
def test_numbers_of_other_kinds_are_told(x):
    model = made(lambda logits: logits)
    for attempt in (lambda: split(model, x), lambda: SplitLRP(split(model))(x, 0)):
        with pytest.raises(DataError, match=r"images are of (torch.uint8|type list); give"):
            attempt()
