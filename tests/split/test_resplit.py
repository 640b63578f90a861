"""A network that still trains is explained as it is now."""

from functools import partial

import torch

from dmn.explain import SplitCAM
from dmn.models import PlainCNN
from dmn.split import ResplitExplainer, split


def test_explanations_follow_the_weights():
    net = PlainCNN(1, (4, 4), grid=2, num_classes=3).eval()
    explainer = ResplitExplainer(net, partial(SplitCAM, layer="stage1", stream="g"))
    x = torch.rand(2, 1, 8, 8)
    before = explainer(x, 0)
    assert before.equal(SplitCAM(split(net), "stage1", "g")(x, 0))
    with torch.no_grad():
        net.head.weight.mul_(-1)
    assert not explainer(x, 0).equal(before)
    assert explainer(x, 0).equal(SplitCAM(split(net), "stage1", "g")(x, 0))
    assert repr(explainer) == "SplitCAM at stage1, part p+n"


def test_each_call_reads_the_same_layer_where_none_is_named():
    net = PlainCNN(1, (4, 4), grid=2, num_classes=3).eval()
    x = torch.rand(2, 1, 8, 8)
    explainer = ResplitExplainer(net, SplitCAM)
    expected = SplitCAM(split(net, x))
    assert expected.layer != "input"
    for _ in range(2):
        assert explainer(x, 0).equal(expected(x, 0))
