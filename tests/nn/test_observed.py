"""Answers of a run come back in a trace, in order, and only there."""

import pytest
import torch

from dmn.nn.observed import observed, recording, replaying


def largest(x):
    return observed(lambda: float(x.max()))


def test_answers_are_replayed_in_order_without_looking():
    with recording() as answers:
        looked = [largest(torch.tensor([value])) for value in (3.0, 1.0, 2.0)]
    assert looked == answers == [3.0, 1.0, 2.0]
    with replaying(answers):
        assert [largest(torch.zeros(1)) for _ in range(3)] == answers
        with pytest.raises(StopIteration):
            largest(torch.zeros(1))


def test_nothing_is_kept_outside_of_the_block():
    with recording() as answers:
        pass
    assert largest(torch.tensor([5.0])) == 5.0
    assert answers == []


def test_an_error_ends_the_replay():
    with pytest.raises(ZeroDivisionError), replaying([1.0]):
        1 / 0  # noqa: B018
    assert largest(torch.tensor([5.0])) == 5.0
