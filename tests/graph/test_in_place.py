"""Writes to slices and items of tensors: what reads them later reads what was written."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dmn.graph.in_place import assigned
from dmn.graph.trace import trace


class Network(nn.Module):
    """A function of what a convolution returns and of a parameter, and a mean."""

    def __init__(self, function):
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(2, 4, 3)
        self.bias = nn.Parameter(torch.randn(4))
        self.register_buffer("table", torch.randn(4, 4))

    def forward(self, x):
        y = self.function(self, self.conv(x))
        return torch.cat(y, 1).mean((2, 3))


def images():
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(3))


def slice_activated(self, y):
    return F.relu(y[:, 1:], inplace=True), y


def base_activated(self, y):
    shown = y[:, :2]
    return y.relu_(), shown


def overlapping(self, y):
    first, second = y[:, :3], y[:, 1:]
    first.relu_()
    second.mul_(2)
    return first, second, y


def slice_of_a_slice(self, y):
    inner = y[:, 1:][:, :, 2:]
    inner += 1
    inner[:, 0].zero_()
    return y, F.pad(inner, (0, 0, 2, 0)), y[:, 2:]


def item_set(self, y):
    y[:, 0] = 0.5
    y[:, 1:, 0] = y[:, 1:, 1] * 2
    return y, y[:, :2]


def item_added_to(self, y):
    y[:, 1:] += y[:, :1]
    y[:, 0] *= 3
    return (y,)


def item_added_to_while_shown(self, y):
    shown = y[:, 2:]
    y[:, 1:] -= 1
    return y, shown


def by_mask(self, y):
    y[y < 0] = 0.1
    return (y,)


def by_indices(self, y):
    y[:, [0, 2]] = y[:, [1, 3]]
    return (y,)


def filled(self, y):
    z = y * 2
    z[:, :2].fill_(0.3)
    z[:, 2:].copy_(y[:, :2])
    return z, y


def part_of_a_parameter(self, y):
    """As in torchvision's Swin: a part of a copy of a bias is set to zero."""
    bias = self.bias.clone()
    bias[1:3].zero_()
    return (y + bias.view(1, -1, 1, 1),)


def table_of_regions(self, y):
    """As for the mask of shifted windows."""
    mask = y.new_zeros((y.shape[2], y.shape[3]))
    for count, rows in enumerate((slice(0, -2), slice(-2, -1), slice(-1, None))):
        mask[rows, rows] = count
    return (y + mask.masked_fill(mask != 0, -1.0),)


def constant_made_of_the_image(self, y):
    scale = torch.ones(4)
    scale[0] = y.mean()
    scale[2:] = 0.5
    return (y * scale.view(1, -1, 1, 1),)


def index_written(self, y):
    """What is indexed shares no memory with the index."""
    index = torch.zeros_like(y[0, :, 0, 0]).long()
    index[1:] = 2
    index[0] = 3
    return (self.bias[index][:, None, None] + y, (self.bias * 2)[index][:, None, None] * y)


def table_kept(self, y):
    table = self.table.clone()
    table[1] = 0
    return (y * self.table, y + table)


WRITES = [
    *(slice_activated, base_activated, overlapping, slice_of_a_slice, item_set, item_added_to),
    *(item_added_to_while_shown, by_mask, by_indices, filled, part_of_a_parameter),
    *(table_of_regions, constant_made_of_the_image, table_kept, index_written),
]


@pytest.mark.parametrize("function", WRITES)
def test_what_is_read_after_a_write_is_what_was_written(function):
    model, x = Network(function).eval(), images()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    traced = trace(model, example=x)
    for inputs in (x, x[:1], -x):
        with torch.no_grad():
            assert torch.equal(traced.network(inputs), model(inputs.clone()))
    assert not traced.unsupported
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_adding_to_an_item_is_one_write():
    code = trace(Network(item_added_to).eval()).network.code
    assert code.count("assigned") == 2


def test_dropout_of_a_view_overwrites_nothing_that_is_shown_later():
    def function(self, y):
        z = F.dropout(y, 0.5, training=False, inplace=True)
        return z[:, :2], z.flatten(2).unflatten(2, (4, 4))

    assert not trace(Network(function).eval()).unsupported


UNSURE = {
    "of a reshaped tensor": lambda self, y: (y.flatten(2)[:, :2].relu_()[..., None], y),
    "a reshaped tensor of a slice": lambda self, y: (y[:, :2].flatten(2).relu_()[..., None], y),
    "set where reshaped": lambda self, y: (_set(y.view(2, 4, 16)), y),
}


def _set(y):
    y[:, 0] = 1
    return y[..., None]


@pytest.mark.parametrize("name", UNSURE)
def test_a_write_that_may_be_shown_elsewhere_is_refused(name):
    (refused,) = trace(Network(UNSURE[name]).eval()).unsupported
    assert "a view of a tensor that is used again" in str(refused)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (..., 0.0),
        (slice(1, None), torch.arange(4.0)),
        ((0, 2), 7),
        (torch.tensor([True, False, True]), -1.0),
    ],
)
def test_assigned_is_the_assignment_to_a_copy(index, value):
    x = torch.randn(3, 4, requires_grad=True)
    expected = x.detach().clone()
    expected[index] = value
    result = assigned(x, index, value)
    assert torch.equal(result, expected)
    result.sum().backward()
    kept = torch.ones(3, 4)
    kept[index] = 0
    assert torch.equal(x.grad, kept)
