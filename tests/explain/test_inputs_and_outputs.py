"""What pairs, controls and metrics take: any axes or images only, and any form of logits."""

import pytest
import torch
from small_pairs import tiny_pair
from torch import nn
from user_networks import FORMS, inputs, made, thin_and_thick

from dmn.baselines import GradCAM, InputXGradient
from dmn.errors import DataError
from dmn.evaluate import score
from dmn.explain import SplitCAM, SplitLRP, controls, resolve_target
from dmn.explain.layers import last_stage
from dmn.explain.resize import resize


@pytest.mark.parametrize("axes", [1, 2])
def test_controls_see_no_axis_of_length_one(axes):
    x = inputs(axes).float()
    for name, control in controls().items():
        maps, thick = control(x), control(x.unsqueeze(2))
        assert maps.shape == (3, 1, *x.shape[2:])
        assert thick.shape == (3, 1, 1, *x.shape[2:])
        # a slope is smoothed over the axis by 1, 2, 1, and the bump has its height at its end
        factor = {"Edges": 4, "Random": 1, "Centre": thick.max() / maps.max()}[name]
        assert torch.allclose(thick.squeeze(2), factor * maps, rtol=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_resizing_keeps_ramps(axes):
    size = (4, 6, 8)[:axes]
    ramp = torch.linspace(0.5, size[-1] - 0.5, size[-1]).expand(2, 3, *size)
    larger = resize(ramp, [2 * side for side in size])
    assert larger.shape == (2, 3, *(2 * side for side in size))
    inner = larger[..., 1:-1]
    assert torch.allclose(inner.diff(dim=-1), torch.full((), 0.5))
    assert resize(ramp, size) is ramp


@pytest.mark.parametrize("axes", [1, 3])
def test_the_last_stage_of_signals_and_volumes_is_found(axes):
    net, x = thin_and_thick(1)[0] if axes == 1 else thin_and_thick(2)[1], inputs(axes)
    layer = last_stage(net, x)
    assert layer == "relu"
    assert GradCAM(net, layer)(x).shape == (3, 1, *x.shape[2:])


@pytest.mark.parametrize("method", [SplitCAM, SplitLRP])
@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 8, 8), (2, 1, 8, 8, 8)])
def test_a_trained_pair_tells_what_does_not_fit(method, shape, target):
    with pytest.raises(DataError, match=r"do not fit Diff.*conv \(Conv2d\) takes \(B, 2, H, W\)"):
        method(tiny_pair())(torch.rand(shape, dtype=torch.float64), target)


def test_the_layer_is_told_whatever_failed_first():
    """A head that takes another size is the first that does not fit; other errors stay."""

    class Failing(nn.Sequential):
        def forward(self, x):
            raise RuntimeError("out of luck")

    x = torch.rand(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(DataError, match=r"3 \(Linear\) takes \(\.\.\., 64\), and gets \(2, 144\)"):
        resolve_target(model, x, None)
    with pytest.raises(RuntimeError, match="out of luck"):
        resolve_target(Failing(), x, None)
    model[1] = nn.BatchNorm2d(5)
    with pytest.raises(DataError, match=r"1 \(BatchNorm2d\) takes \(B, 5, H, W\)"):
        resolve_target(model, x, None)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(module.training for module in model.modules())


METRICS = ["PixelFlipping", "FaithfulnessCorrelation", "RandomLogit"]


@pytest.mark.parametrize("form", FORMS)
def test_scores_of_all_forms_are_equal(form):
    plain, model, x = made(lambda logits: logits), made(form), inputs(2)
    y = plain(x).argmax(1)
    scores = score(METRICS, model, InputXGradient(model), x, y)
    expected = score(METRICS, plain, InputXGradient(plain), x, y)
    for name in METRICS:
        assert expected[name].n == 3
        assert scores[name].values == pytest.approx(expected[name].values, rel=1e-6)


def test_scores_of_one_logit_for_each_image_are_those_of_one_class():
    column, squeezed = made(lambda logits: logits, 1), made(lambda logits: logits[:, 0], 1)
    x, y = inputs(2), [0, 0, 0]
    scores = score(METRICS, squeezed, InputXGradient(squeezed), x, y)
    expected = score(METRICS, column, InputXGradient(column), x, y)
    for name in METRICS:
        assert list(scores[name].values) == pytest.approx(expected[name].values, nan_ok=True)
        assert scores[name].remarks == expected[name].remarks
    assert scores["PixelFlipping"].n == 3
    assert "the network has one logit" in str(scores["RandomLogit"].remarks)


def test_metrics_are_of_images():
    net, x = thin_and_thick(1)[0], inputs(1)
    with pytest.raises(DataError, match=r"shape \(3, 2, 40\); metrics are of \(N, C, H, W\)"):
        score(METRICS, net, InputXGradient(net), x, 0)
