"""Starts of passes against their published formulas, in float64 and in narrower types."""

import pytest
import torch

from dmn.errors import OptionError, TargetError
from dmn.nn import contrast_outputs, output_relevance, select_output

OUTPUTS = ("class", "contrast", "all", "clrp", "sglrp")
SIZES = pytest.mark.parametrize("classes", [2, 3, 7])


def drawn(classes, scale=3.0):
    generator = torch.Generator().manual_seed(classes)
    logits = scale * torch.randn(5, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (5,), generator=generator)


def literal(logits, target, output):
    """Return the relevance of the logits of one image, entry by entry."""
    classes = len(logits)
    shares = [float(share) for share in logits.exp() / logits.exp().sum()]
    others = [k for k in range(classes) if k != target]
    f = [float(logit) for logit in logits]
    at_class, elsewhere = {
        "class": (f[target], lambda k: 0.0),
        "contrast": (f[target] * (1 - 1 / classes), lambda k: -f[k] / classes),
        "all": (f[target] / classes, lambda k: f[k] / classes),
        "clrp": (f[target], lambda k: -f[target] / (classes - 1)),
        "sglrp": (shares[target] * (1 - shares[target]), lambda k: -shares[target] * shares[k]),
    }[output]
    row = torch.zeros(classes, dtype=torch.float64)
    row[target] = at_class
    for k in others:
        row[k] = elsewhere(k)
    return row


@SIZES
@pytest.mark.parametrize("output", OUTPUTS)
def test_relevance_by_definition(output, classes):
    logits, target = drawn(classes)
    expected = [literal(*row, output) for row in zip(logits, target.tolist(), strict=True)]
    assert torch.allclose(
        output_relevance(logits, target, output), torch.stack(expected), rtol=1e-12, atol=1e-14
    )


@SIZES
def test_sglrp_is_the_derivative_of_the_softmax(classes):
    logits, target = drawn(classes)
    leaf = logits.clone().requires_grad_()
    leaf.softmax(dim=1).gather(1, target[:, None]).sum().backward()
    assert torch.allclose(output_relevance(logits, target, "sglrp"), leaf.grad, rtol=1e-10)


@SIZES
@pytest.mark.parametrize("output", OUTPUTS)
def test_weights_times_logits_are_the_relevance(output, classes):
    """Up to the stabiliser, with which a logit of 0 has a finite weight."""
    logits, target = drawn(classes)
    weights = select_output(logits, target, output)
    relevance = output_relevance(logits, target, output)
    assert torch.allclose(weights * logits, relevance, rtol=1e-4, atol=1e-12)
    logits[:, 0] = 0.0
    assert select_output(logits, target, output).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("output", OUTPUTS)
def test_narrow_types_hold_the_weights(output, dtype):
    logits, target = drawn(3)
    logits[0] = 0.0
    weights = select_output(logits.to(dtype), target, output)
    assert weights.dtype == dtype
    assert weights.isfinite().all()


@pytest.mark.parametrize("certainty", [20.0, 40.0, 80.0])
def test_sglrp_of_a_certain_network_is_no_zero(certainty):
    """In float32, where the class's probability is 1 to all digits."""
    logits = torch.tensor([[certainty, 0.0, -1.0]])
    relevance = output_relevance(logits, torch.tensor([0]), "sglrp")
    assert relevance[0, 0] > 0
    assert relevance.sum().abs() <= 1e-6 * relevance[0, 0]


@pytest.mark.parametrize("output", OUTPUTS)
def test_starts_are_constants(output):
    logits, target = drawn(3)
    logits.requires_grad_()
    assert not output_relevance(logits, target, output).requires_grad
    assert not select_output(logits, target, output).requires_grad


@pytest.mark.parametrize("start", [output_relevance, select_output])
@pytest.mark.parametrize("output", OUTPUTS)
def test_one_logit_has_nothing_to_be_contrasted_with(start, output):
    logits, target = torch.ones(2, 1), torch.tensor([0, 0])
    if output == "class":
        assert start(logits, target, output).tolist() == [[1.0], [1.0]]
        return
    with pytest.raises(TargetError, match="contrast needs two classes"):
        start(logits, target, output)


@pytest.mark.parametrize("start", [output_relevance, select_output])
@pytest.mark.parametrize("output", OUTPUTS)
def test_classes_that_are_not_there_are_refused(start, output):
    with pytest.raises(TargetError, match="no class 3; there are 0 to 2"):
        start(torch.ones(2, 3), torch.tensor([0, 3]), output)


@pytest.mark.parametrize("wrong", ["CLRP", "class", "", None, 2, 0.5, ["mean"], ("clrp",)])
def test_what_is_no_contrast_is_refused_by_what_would_do(wrong):
    with pytest.raises(OptionError, match=r"contrast of LRP is .*false, true, mean, clrp or sglrp"):
        contrast_outputs(wrong, "LRP", relevance=True)
    with pytest.raises(OptionError, match=r"contrast of CAM is .*; give false, true or mean$"):
        contrast_outputs(wrong, "CAM", relevance=False)


def test_a_true_contrast_is_the_mean_of_sensitivities_and_two_passes_of_relevance():
    assert contrast_outputs(True, "CAM", False) == contrast_outputs("mean", "CAM", False)
    assert contrast_outputs(True, "LRP", True) == ("class", "all")
    assert contrast_outputs("mean", "LRP", True) == ("contrast",)
