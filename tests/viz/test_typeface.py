import numpy as np
import pytest
import torch

from dmn.viz.panels import panel
from dmn.viz.typeface import can_be_drawn, class_label

READABLE = ["cat", "Äpfel", "Γάτα", "кот", "señal ß"]


@pytest.mark.parametrize("text", READABLE)
def test_letters_of_most_alphabets_can_be_drawn(text):
    assert can_be_drawn(text)


@pytest.mark.parametrize("text", ["犬", "ハ", "a 犬"])
def test_what_would_be_a_box_is_known(text):
    assert not can_be_drawn(text)


def test_rows_of_other_letters_look_different():
    pictures = {"image": torch.ones(1, 3, 8, 8)}
    drawn = [np.asarray(panel(pictures, [text])) for text in ("ÄΓж", "ÖΔш")]
    assert not np.array_equal(*drawn)


def test_a_class_is_labelled_by_its_name_or_its_number():
    assert class_label("Γάτα", 0) == "Γάτα"
    assert class_label("犬", 2) == "class 2"
