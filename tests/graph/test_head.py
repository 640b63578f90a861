"""A softmax at the end of a network is left out, and the names of layers stay true."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dmn.graph import drop_softmax_head, trace


class Ending(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.body, self.fc = nn.Flatten(), nn.Linear(4, 3)
        self.softmax, self.end = nn.Softmax(dim=1), end

    def forward(self, x):
        return self.end(self, self.fc(self.body(x)))


ENDS = {
    "module": lambda self, x: self.softmax(x),
    "function": lambda self, x: F.softmax(x, dim=-1),
    "position": lambda self, x: torch.softmax(x, 1),
    "method": lambda self, x: x.log_softmax(1),
    "log": lambda self, x: F.log_softmax(x, 1),
    "made on the way": lambda self, x: nn.LogSoftmax(dim=1)(x),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_logits_are_returned(name):
    model, x = Ending(ENDS[name]).eval(), torch.randn(2, 1, 2, 2)
    traced = trace(model)
    assert torch.equal(traced.network(x), model(x))
    headless, softmax = drop_softmax_head(traced)
    assert torch.equal(softmax(headless.network(x)), model(x))
    assert torch.equal(headless.network(x), model.fc(x.flatten(1)))
    assert list(headless.layers) == ["input", "body", "fc"]
    assert list(trace(headless.network).layers) == list(headless.layers)


def test_modules_that_returned_the_softmax_are_named_by_the_logits():
    head = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
    headless, _ = drop_softmax_head(trace(nn.Sequential(nn.Flatten(), head)))
    assert list(headless.layers) == ["input", "0", "1.0", "1"]
    assert headless.layers["1"] is headless.layers["1.0"]
    assert [type(each).__name__ for each in headless.network.modules()][1:] == [
        *("Flatten", "Module", "Linear")
    ]


OTHER_ENDS = {
    "no softmax": lambda self, x: x,
    "sigmoid": lambda self, x: x.sigmoid(),
    "over images": lambda self, x: x.softmax(0),
    "read on": lambda self, x: self.softmax(x) * 2,
    "of the input": lambda self, x: F.softmax(x.unsqueeze(0), 2)[0],
}


@pytest.mark.parametrize("name", OTHER_ENDS)
def test_other_ends_stay(name):
    traced = trace(Ending(OTHER_ENDS[name]).eval())
    code = traced.network.code
    headless, softmax = drop_softmax_head(traced)
    assert headless is traced
    assert softmax is None
    assert traced.network.code == code


def test_a_softmax_that_is_also_read_elsewhere_stays_there():
    model = Ending(lambda self, x: F.softmax(x + self.softmax(x), 1)).eval()
    x = torch.randn(2, 1, 2, 2)
    headless, _ = drop_softmax_head(trace(model))
    logits = model.fc(x.flatten(1))
    assert torch.equal(headless.network(x), logits + logits.softmax(1))
    assert "softmax" in headless.layers
