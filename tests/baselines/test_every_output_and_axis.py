"""Networks as users write them are explained: any form of logits, any number of axes."""

import pytest
import torch
from rival_networks import POST_HOC
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

from dmn.baselines import DeepLift, GradCAM, LRPEpsilon, LRPEpsilonPlus
from dmn.errors import DataError, TargetError, UnknownNameError, UnsupportedError

EVERY = pytest.mark.parametrize("method", POST_HOC)


def explainer(method, model, layer, **options):
    options |= {"layer": layer} if method in ("GradCAM", "GradCAM++", "LayerCAM") else {}
    return POST_HOC[method](model, **options)


@EVERY
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_logits_make_no_difference(method, form):
    plain, model, x = made(lambda logits: logits), made(form), inputs(2)
    maps = explainer(method, model, "conv")(x)
    assert torch.allclose(maps, explainer(method, plain, "conv")(x), rtol=1e-6)
    contrasted = explainer(method, model, "conv", contrast=True)(x, 2)
    expected = explainer(method, plain, "conv", contrast=True)(x, 2)
    assert torch.allclose(contrasted, expected, rtol=1e-5, atol=1e-9)


@EVERY
def test_one_logit_for_each_image_is_one_class(method):
    column, squeezed = made(lambda logits: logits, 1), made(lambda logits: logits[:, 0], 1)
    x = inputs(2)
    assert squeezed(x).shape == (3,)
    expected = explainer(method, column, "conv")(x)
    for target in (None, 0):
        assert torch.equal(explainer(method, squeezed, "conv")(x, target), expected)
    for model in (squeezed, column):
        with pytest.raises(TargetError, match="its one logit is class 0"):
            explainer(method, model, "conv")(x, 1)
        with pytest.raises(TargetError, match="contrast needs two classes"):
            explainer(method, model, "conv", contrast=True)(x)


@EVERY
@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (lambda logits: {"out": logits}, "Tail returns dict of keys out, .* wrap it in a module"),
        (lambda logits: logits[:, :, None, None], r"Tail returns \(\d+, 3, 1, 1\) .* wrap it"),
        (
            lambda logits: torch.cat([logits, logits]),
            r"Tail returns \(\d+, 3\) .* for \d+ images",
        ),
    ],
)
@pytest.mark.parametrize("target", [None, 0])
def test_what_are_no_logits_is_refused_in_one_line(method, turn, message, target):
    with pytest.raises(UnsupportedError, match=message) as refusal:
        explainer(method, made(turn), "conv")(inputs(2), target)
    assert len(refusal.value.lines) == 1


@EVERY
def test_a_second_input_is_refused_in_one_line(method):
    with pytest.raises(UnsupportedError, match="Required requires age besides the images; wrap"):
        explainer(method, made(Required), "conv")


def test_predicted_classes_are_no_logits():
    with pytest.raises(UnsupportedError, match=r"returns \(3,\) of torch.int64"):
        POST_HOC["Gradient"](made(lambda logits: logits.argmax(1)))(inputs(2))


# -- axes ----------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize(("axes", "overlap"), [(1, False), (1, True), (2, False)])
def test_an_axis_of_length_one_makes_no_difference(method, axes, overlap):
    net, other = thin_and_thick(axes, overlap)
    x = inputs(axes)
    for layer in ("conv", "average"):
        maps = explainer(method, net, layer)(x)
        expected = explainer(method, other, layer)(x.unsqueeze(2)).squeeze(2)
        assert maps.shape == (3, 1, *x.shape[2:])
        assert torch.allclose(maps, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


@pytest.mark.parametrize("axes", [1, 3])
def test_relevance_goes_to_the_bump_that_decides(axes):
    x, y, masks = planted(axes)
    model = BumpDetector(axes).eval()
    assert share_inside(LRPEpsilonPlus(model)(x, y), masks).min() >= 0.8


@pytest.mark.parametrize(("axes", "overlap"), [(1, True), (1, False), (3, False)])
def test_contributions_sum_to_the_difference_of_logits(axes, overlap):
    net = thin_and_thick(1, overlap)[0] if axes == 1 else thin_and_thick(2)[1]
    x = inputs(axes)
    difference = net(x)[:, 1] - net(torch.zeros_like(x))[:, 1]
    assert torch.allclose(DeepLift(net)(x, 1).flatten(1).sum(1), difference.float(), atol=1e-5)


def test_overlapping_windows_of_volumes_are_refused():
    _, net = thin_and_thick(2, overlap=True)
    with pytest.raises(UnsupportedError, match=r"pool \(MaxPool3d\): this method has no rule"):
        DeepLift(net)


def test_the_norm_of_a_signal_is_known_by_the_convolution_before_it():
    """Unless there is none: then nobody knows whether it sees (B, C) or (B, C, L)."""
    x = inputs(1)
    head = (nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(2, 3))
    convolution = nn.Conv1d(2, 2, 3)
    known = nn.Sequential(convolution, nn.ReLU(), nn.MaxPool1d(2), nn.BatchNorm1d(2), *head)
    assert LRPEpsilon(known.double().eval())(x).shape == (3, 1, 40)
    with pytest.raises(UnsupportedError, match=r"\(B, C\) or \(B, C, L\)"):
        LRPEpsilon(nn.Sequential(nn.BatchNorm1d(2), nn.ReLU(), *head).double().eval())


def test_tokens_of_a_signal_have_their_channels_last():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.norm = nn.Conv1d(2, 6, 4, 4), nn.LayerNorm(6)
            self.mix, self.head = nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 3)
            self.turn = nn.Identity()

        def forward(self, x):
            tokens = self.norm(self.patches(x).mT)
            return self.head(self.mix(self.turn(tokens.mT).mT).mean(1))

    model, x = Tokens().double().eval(), inputs(1)
    assert GradCAM(model, "patches")(x).shape == (3, 1, 40)
    turned = GradCAM(model, "turn")(x, 1)
    assert turned.max() > 0
    assert torch.equal(GradCAM(model, "norm")(x, 1), turned)
    assert GradCAM(model, "mix")(x).shape == (3, 1, 40)
    with pytest.raises(UnknownNameError, match=r"'head' holds no image, \(3, 3\)"):
        GradCAM(model, "head")(x)


# -- what does not fit ---------------------------------------------------------------------------


@EVERY  # of which some run copies of the images together, and name the shape of these
@pytest.mark.parametrize("target", [None, 0])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 16, 12), r"conv \(Conv2d\) takes \(B, 2, H, W\), and gets \(\d+, 3, 16, 12\)"),
        ((2, 16, 12), r"conv \(Conv2d\) takes \(B, 2, H, W\), and gets \(2, 16, 12\)"),
        ((16, 12), r"shape \(16, 12\); give signals \(B, C, L\), images"),
    ],
)
def test_images_of_other_channels_or_ranks_are_told(method, shape, message, target):
    explain = explainer(method, made(lambda logits: logits), "conv")
    with pytest.raises(DataError, match=message) as refusal:
        explain(torch.rand(shape, dtype=torch.float64), target)
    assert len(refusal.value.lines) == 1


@EVERY
def test_numbers_of_other_kinds_are_told(method):
    explain = explainer(method, made(lambda logits: logits), "conv")
    with pytest.raises(DataError, match=r"images are of torch.uint8; give floating point"):
        explain(torch.zeros(2, 2, 8, 8, dtype=torch.uint8))
    with pytest.raises(DataError, match="images are of type ndarray; give a tensor"):
        explain(inputs(2).numpy())
