"""Channels are followed through moves and averages, and nowhere else."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dmn.canonize.moves import Moves, RecordedShapes
from dmn.graph import trace

SHAPE = (2, 4, 6, 6)


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x).sin()


def followed(function):
    """Return the last operation, and what takes the channels of the images."""
    x = torch.randn(SHAPE)
    network = trace(Call(function), example=x).network
    RecordedShapes(network).propagate(x)
    (images,) = network.graph.find_nodes(op="placeholder")
    (output,) = network.graph.find_nodes(op="output")
    channels = torch.arange(1.0, 5.0).double().view(-1, 1, 1).expand(SHAPE)
    return output.args[0], Moves(network).uses(images, channels)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.view(x.shape[0], 2, 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2),
        lambda x: x.flatten(2).transpose(1, 2)[:, 0],
        lambda x: x.mean((2, 3)),
        lambda x: F.adaptive_avg_pool2d(x, 3).flatten(1),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: F.pixel_unshuffle(x, 2),
        lambda x: F.pad(x, (0, 0)).roll((1, 2), (2, 3)).contiguous(),
    ],
)
def test_channels_are_those_from_which_the_output_comes(function):
    last, (use,) = followed(function)
    assert use.node is last
    for channel in range(4):
        x = torch.zeros(SHAPE).double()
        x[:, channel] = 1.0
        assert torch.allclose(function(x), (use.channels == channel + 1).double(), atol=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean(1),  # over channels
        lambda x: x.sum((2, 3)),
        lambda x: F.avg_pool2d(x, 3, padding=1),  # zeros are averaged, too
        lambda x: F.pad(x, (1, 1)),
        lambda x: torch.cat([x, x.sin()], 1),
        lambda x: x + x.roll(1, 1),
        lambda x: F.pad(x, (0, -x.shape[3] % 3)),  # by nothing here, but not for all images
        lambda x: x.relu(),
        lambda x: x.half(),
    ],
)
def test_what_mixes_or_changes_numbers_is_not_followed(function):
    last, uses = followed(lambda x: function(x.contiguous()))
    assert all(use.node is not last for use in uses)
    for use in uses:
        assert torch.equal(use.channels[0, :, 0, 0].sort()[0], torch.arange(1.0, 5.0).double())
