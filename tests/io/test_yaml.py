import effort
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from dmn.io.yaml import read_yaml, write_yaml

ODD = ["1e3", "1.5e3", "12E4", "0x1f", "null", "on", "2020-01-01", "- x", "#y", "犬", "1_0", "~"]
NAMES = st.one_of(st.sampled_from(ODD), st.from_regex(r"[-+]?[0-9_]*\.?[0-9]*[eE]?[-+]?[0-9]*"))


@settings(max_examples=effort.examples(30, 100))
@given(st.lists(NAMES.filter(str.isprintable)))
def test_text_is_read_as_text_by_every_reader(names):
    text = write_yaml({"names": names})
    assert read_yaml(text.encode()) == {"names": names}
    parser = ArgumentParser()
    parser.add_argument("--names", type=list[str])
    assert parser.parse_string(text).names == names


@pytest.mark.parametrize("number", [1e-05, 1e3, 1e20, 0.1, -2.5, 3, 10**20])
def test_numbers_stay_numbers(number):
    assert yaml.safe_load(write_yaml([number])) == [number]
    assert write_yaml([number]) == yaml.safe_dump([number])
