"""How much is tried: what stands for the whole in `make test`, all of it in `make test-all`."""

import pytest

thorough = False  # set by --thorough, before tests are collected


def examples(quick, full):
    """Return how many examples to draw."""
    return full if thorough else quick


def slow_except(quick, values):
    """Return parameters, of which all but the quick ones are slow.

    Args:
        quick: Those that stand for all, as parts of `values`.
        values: All of them.
    """
    assert set(quick) <= set(values), set(quick) - set(values)
    return [
        pytest.param(value, marks=() if value in quick else pytest.mark.slow) for value in values
    ]
