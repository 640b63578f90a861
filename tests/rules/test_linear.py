"""Linear layers and convolutions: products that are made in pieces, and in one."""

import pytest
import torch
from torch import nn

from dmn.explain import SplitCAM, SplitGrad, SplitLRP
from dmn.rules import linear
from dmn.split import split

TARGET = torch.tensor([1, 0])


class Dense(nn.Module):
    """Linear layers on vectors and on the last axis of images, with a bias and without."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(6, 5)
        self.first, self.second = nn.Linear(2 * 6 * 5, 9, bias=False), nn.Linear(9, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(self.last(x).flatten(1))))


@pytest.mark.parametrize("block", [1, 7, 40, 10_000])
@pytest.mark.parametrize("method", [SplitCAM, SplitGrad, SplitLRP])
def test_pieces_of_a_matrix_make_the_same_map(method, block, monkeypatch):
    torch.manual_seed(0)
    net = Dense().double().eval()
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    ours = split(net, x)
    for stream in ("g", "h", "g-h"):
        options = {"stream": stream, "alpha": 0.3}
        if method is SplitLRP:
            options["head_alpha"] = 0.2
        monkeypatch.setattr(linear, "BLOCK", 10**9)
        whole = method(ours, **options)(x, TARGET)
        evidence = ours.g(x)
        monkeypatch.setattr(linear, "BLOCK", block)
        assert torch.allclose(method(ours, **options)(x, TARGET), whole, rtol=1e-5, atol=0)
        assert torch.allclose(ours.g(x), evidence, rtol=1e-12)
