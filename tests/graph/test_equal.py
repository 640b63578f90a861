"""A rewritten network is compared with its original: rounding is let pass, all else refused."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from dmn.canonize import canonize
from dmn.errors import NotEqualError
from dmn.graph.equal import require_equal
from dmn.split import split


class Changed(nn.Module):
    """A network whose logits are changed."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.change(self.net(x))


def network(scale=1.0):
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.Dropout(0.5), nn.Linear(5, 3))
    return Changed(net, lambda logits: scale * logits)


def images(dtype=torch.float32):
    return torch.randn(4, 2, 2, 2, dtype=dtype)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("dtype", "rounding", "change"),
    [
        (torch.float64, 1e-9, 1e-7),
        (torch.float32, 1e-5, 1e-2),
        (torch.bfloat16, 1e-2, 0.5),
    ],
)
def test_rounding_is_let_pass_whatever_the_size(dtype, rounding, change, scale):
    net, x = network(scale).to(dtype), images(dtype)
    size = network_size(net, x)
    for exact in (False, True):
        require_equal(net, net, x, exact=exact)
    near = Changed(net, lambda logits: logits + rounding * size)
    require_equal(near, net, x)
    with pytest.raises(NotEqualError, match="the rewritten Changed differs from it by"):
        require_equal(near, net, x, exact=True)
    with pytest.raises(NotEqualError, match="of logits up to"):
        require_equal(Changed(net, lambda logits: logits - change * size), net, x)


def network_size(net, x):
    with torch.no_grad():
        return net.eval()(x).abs().max()


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_one_number_that_is_none_is_refused(broken):
    net, x = network(), images()

    def change(logits):
        logits = logits.clone()
        logits[1, 2] = broken
        return logits

    for exact in (False, True):
        with pytest.raises(NotEqualError):
            require_equal(Changed(net, change), net, x, exact=exact)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda logits: logits[:, :2], r"returns \(4, 2\) of torch.float32 in place of \(4, 3\)"),
        (lambda logits: logits.double(), "of torch.float64 in place of"),
        (lambda logits: logits @ torch.ones(4, 4), "fails"),
    ],
)
def test_other_outputs_are_refused(change, told):
    net, x = network(), images()
    with pytest.raises(NotEqualError, match=told):
        require_equal(Changed(net, change), net, x)


class Nearly(nn.Module):
    """Does not give a trace the last bits."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        logits = self.net(x)
        return logits * 1.000001 if type(logits) is torch.Tensor else logits


def test_a_split_network_is_equal_to_the_bit_and_a_canonized_one_to_rounding():
    model, x = Nearly().eval(), images()
    canonize(model, x)
    with pytest.raises(NotEqualError):
        split(model, x)


def test_the_original_is_asked_as_it_predicts_and_left_as_it_was():
    net, x = network(), images()
    made = deepcopy(net).eval()
    net.train()
    with torch.inference_mode():
        require_equal(made, net, images())
    kept = x.clone()
    require_equal(made, net, x.requires_grad_())
    assert all(module.training for module in net.modules())
    assert torch.equal(x.detach(), kept)
    assert all(parameter.grad is None for parameter in net.parameters())
