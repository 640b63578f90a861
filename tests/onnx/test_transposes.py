"""What is written by forward operations is what torch's own backward operations return."""

import pytest
import torch
from torch.autograd import grad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from dmn.errors import UnsupportedError
from dmn.onnx.transposes import _batch_norm, _convolution, decompositions


def assert_transposed(function, *shape):
    """Compare the gradient that is traced by forward operations with autograd's."""
    torch.manual_seed(0)
    x = torch.randn(2, *shape, dtype=torch.float64)
    cotangent = torch.randn_like(function(x))

    def transpose(x, cotangent):
        x = x.detach().requires_grad_()
        return grad(function(x), x, cotangent)[0]

    traced = make_fx(transpose, decomposition_table=decompositions())(x, cotangent)
    called = {str(node.target) for node in traced.graph.nodes}
    assert not [name for name in called if "backward" in name]
    torch.testing.assert_close(traced(x, cotangent), transpose(x, cotangent), rtol=1e-12, atol=0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
def test_convolution(stride, padding, dilation, groups):
    weight = torch.randn(6, 4 // groups, 3, 2, dtype=torch.float64)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    assert_transposed(lambda x: F.conv2d(x, weight, **options), 4, 9, 8)


def test_convolution_that_is_transposed_itself_and_of_signals():
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    assert_transposed(lambda x: F.conv_transpose2d(x, weight, stride=2, padding=1), 4, 5, 6)
    weight = torch.randn(5, 4, 3, dtype=torch.float64)
    assert_transposed(lambda x: F.conv1d(x, weight, padding=1), 4, 9)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_pooling(kernel, stride, padding, ceil_mode):
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    assert_transposed(lambda x: F.max_pool2d(x, kernel, **options), 3, 8, 7)
    for include in (True, False):
        counted = {"count_include_pad": include, **options}
        assert_transposed(lambda x, counted=counted: F.avg_pool2d(x, kernel, **counted), 3, 8, 7)
    divided = {"divisor_override": 5, **options}
    assert_transposed(lambda x: F.avg_pool2d(x, kernel, **divided), 3, 8, 7)


@pytest.mark.parametrize("size", [1, 3, (2, 7), 9])
def test_adaptive_pooling(size):
    assert_transposed(lambda x: F.adaptive_avg_pool2d(x, size), 3, 8, 7)


@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_in_eval_mode(affine):
    norm = torch.nn.BatchNorm2d(3, affine=affine).double().eval().requires_grad_(False)
    norm.running_var.uniform_(0.5, 2)
    assert_transposed(norm, 3, 4, 4)


def test_what_is_no_explanation_is_refused():
    x, weight = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
    with pytest.raises(UnsupportedError, match="the gradient of weights cannot be exported"):
        _convolution(x, x, weight, None, [1], [1], [1], False, [0], 1, [True, True, False])
    mask = [True, False, False]
    with pytest.raises(UnsupportedError, match="batch norm without running statistics"):
        _batch_norm(x, x, None, None, None, None, None, True, 1e-5, mask)
