"""Text of strangers: a terminal and a spreadsheet show it, and obey none of it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmn.io.text import cell, plain, plain_lines

OBEYED = [
    "\x1b[2J",
    "\x9b1m",
    "\a",
    "\b",
    "\r",
    "\x7f",
    "\0",
    "\u202e",
    "\u2066",
    "\u2028",
    "\udcff",
]
SHOWN = ["Grad-CAM g-h", "größer", "日本語", "עברית", "क्षि", "می‌خواهم", "👩‍🔬", "a\\b 'c'"]
FORMULA = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"  # what one begins with
TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.torture("a name with {sign!r} is printed", "the sign is escaped")
@pytest.mark.parametrize("sign", OBEYED)
def test_what_a_terminal_obeys_is_escaped(sign, happened):
    told = plain(f"a{sign}b")
    assert told == f"a{ascii(sign[0])[1:-1]}{sign[1:]}b"
    told.encode()
    happened(told)


@pytest.mark.parametrize("name", SHOWN)
def test_names_of_any_script_stay_as_they_are(name):
    assert plain(name) == name


@given(st.text())
def test_nothing_else_is_changed_and_nothing_obeyed_is_left(text):
    told = plain(text)
    assert plain(told) == told
    assert not any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in told)
    assert not any(unicodedata.bidirectional(each) in TURNS for each in told)
    letters = [each for each in text if unicodedata.category(each)[0] in "LMNPS" or each == " "]
    assert plain("".join(letters)) == "".join(letters)
    assert plain_lines(text).count("\n") == text.count("\n")


@given(st.sampled_from(FORMULA) | st.characters(), st.text())
def test_no_cell_is_a_formula(first, rest):
    told = cell(first + rest)
    assert told in (first + rest, f"'{first}{rest}")
    if told[0] in FORMULA:
        float(told)


@given(st.floats() | st.integers())
def test_numbers_are_no_formulas(number):
    assert cell(str(number)) == str(number)
