"""Weights of other projects' files: under names, and behind prefixes."""

import logging
import time

import pytest
import torch
from hostile_files import honest
from hypothesis import given
from hypothesis import strategies as st

from dmn.errors import CheckpointError
from dmn.io.weights import read_weights
from dmn.io.wrappers import LEVELS, WRAPPERS, drop_prefix, unwrap

PREFIXES = ("", "module.", "model.", "net.", "backbone.", "_orig_mod.", "module.model._orig_mod.")


def behind(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("wrapper", ["", *WRAPPERS])
def test_weights_are_found_wherever_they_are(wrapper, prefix, tmp_path):
    state = honest()
    named = behind(prefix, state)
    torch.save({wrapper: named, "epoch": 3, "lr": [0.1]} if wrapper else named, tmp_path / "a.pt")
    found = drop_prefix(read_weights(tmp_path / "a.pt"), state.keys(), "a.pt")
    assert equal(found, state)


@pytest.mark.parametrize("averaged", ["ema", "model_ema", "state_dict_ema", "ema_state_dict"])
def test_plain_weights_are_preferred_to_averaged_ones(averaged, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    plain, other = honest(), {key: value + 1 for key, value in honest().items()}
    torch.save({averaged: other, "model": plain}, tmp_path / "both.pt")
    assert equal(read_weights(tmp_path / "both.pt"), plain)
    assert not caplog.messages
    torch.save({averaged: {"module": other, "decay": 0.9}}, tmp_path / "one.pt")
    assert equal(read_weights(tmp_path / "one.pt"), other)
    assert "its averaged weights" in caplog.text
    assert averaged in caplog.text


@pytest.mark.parametrize("averaged", ["ema.", "ema_model.module.", "model_ema."])
def test_the_same_holds_of_prefixes(averaged, caplog):
    caplog.set_level(logging.INFO)
    plain, other = honest(), {key: value + 1 for key, value in honest().items()}
    both = behind(averaged, other) | behind("classifier.", plain)
    assert equal(drop_prefix(both, plain.keys(), "a.pt"), plain)
    assert "the weights are those of 'classifier.'; left out: " in caplog.text
    assert equal(drop_prefix(behind(averaged, other), plain.keys(), "a.pt"), other)


def test_keys_outside_the_prefix_are_left_out_and_told_in_one_line(caplog):
    caplog.set_level(logging.INFO)
    state = honest()
    others = {f"metric{index}\n.total": torch.zeros(1) for index in range(5)}
    found = drop_prefix(behind("model.", state) | others, state.keys(), "a.pt")
    assert equal(found, state)
    (message,) = caplog.messages
    assert message.endswith(
        "left out: metric0\\n.total, metric1\\n.total, metric2\\n.total and 2 more"
    )
    assert "\n" not in message


def test_keys_within_the_prefix_are_kept_for_a_refusal():
    state = honest()
    found = drop_prefix(behind("net.", state | {"more": torch.ones(1)}), state.keys(), "a.pt")
    assert found.keys() - state.keys() == {"more"}


def test_two_networks_that_fit_alike_are_refused():
    state = honest()
    both = behind("student.", state) | behind("teacher.", state)
    with pytest.raises(CheckpointError, match=r"a\.pt: holds several .* student\., teacher\.; ke"):
        drop_prefix(both, state.keys(), "a.pt")


@given(st.dictionaries(st.text("ab.", max_size=6), st.just(torch.zeros(1)), max_size=8))
def test_a_state_dict_that_has_every_key_is_as_it_was(state):
    """Whatever its keys are: no prefix fits better than none."""
    assert drop_prefix(state, state.keys(), "a.pt") == state
    assert drop_prefix(state, (), "a.pt") == state


@given(
    st.sets(st.text("ab.", min_size=1, max_size=5), min_size=1, max_size=5),
    st.lists(st.text("cd", min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_any_prefix_of_other_letters_is_found(keys, names):
    state = {key: torch.zeros(1) for key in keys}
    named = behind(".".join(names) + ".", state)
    assert drop_prefix(named, state.keys(), "a.pt") == state


def test_content_within_itself_ends():
    content = {}
    content["model"] = content
    assert unwrap(content, "a.pt") is content
    deep = {"epoch": 1}
    for _ in range(LEVELS + 1):
        deep = {"state_dict": deep}
    assert unwrap(deep, "a.pt") == {"state_dict": {"epoch": 1}}


def test_long_keys_of_many_dots_take_no_time():
    state = {"." * 10**6: torch.zeros(1), "a." * 10**5: torch.zeros(1)}
    start = time.perf_counter()
    assert drop_prefix(state, honest().keys(), "a.pt") == state
    assert time.perf_counter() - start < 1
