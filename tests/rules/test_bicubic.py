"""The bound of bicubic interpolation, against the matrix that images of a single 1 make."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dmn.rules.bicubic import interpolation_bound


def matrix(height, width, **options):
    """Return the matrix of an interpolation, (H' W', H W), number by number, and H', W'."""
    columns = []
    for place in range(height * width):
        image = torch.zeros(height * width, dtype=torch.float64)
        image[place] = 1.0
        out = F.interpolate(image.view(1, 1, height, width), mode="bicubic", **options)
        columns.append(out.flatten())
    return torch.stack(columns, 1), out.shape[2:]


def literal(x, **options):
    """Interpolate by the absolute values of the full matrix."""
    weights, size = matrix(*x.shape[2:], **options)
    return (x.flatten(2) @ weights.abs().T).view(*x.shape[:2], *size)


# from a width of 2 on: see `_weights` for what torch does at 1
sizes = st.tuples(st.integers(1, 9), st.integers(2, 9))
scales = st.tuples(st.floats(0.7, 2.5), st.floats(1.0, 2.5))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    to=st.one_of(
        st.fixed_dictionaries({"size": sizes}),
        st.fixed_dictionaries({"scale_factor": scales}),
        st.fixed_dictionaries(
            {"scale_factor": scales, "recompute_scale_factor": st.just(value=True)}
        ),
    ),
    align_corners=st.booleans(),
    antialias=st.booleans(),
)
def test_the_bound_is_that_of_the_full_matrix(shape, to, align_corners, antialias):
    random = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, *shape, generator=random, dtype=torch.float64)
    options = {**to, "align_corners": align_corners, "antialias": antialias}
    ours, expected = interpolation_bound(x, **options), literal(x, **options)
    assert ours.shape == expected.shape
    assert torch.allclose(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("to", [{"size": 9}, {"scale_factor": 2.0}, {"scale_factor": 1.5}])
def test_one_number_is_for_both_axes(to):
    x = torch.rand(1, 2, 5, 4, dtype=torch.float64)
    assert torch.allclose(interpolation_bound(x, **to), literal(x, **to), atol=1e-12)


def test_the_bound_is_larger_where_weights_are_negative():
    x = torch.ones(1, 1, 6, 6, dtype=torch.float64)
    ours = interpolation_bound(x, size=(11, 11))
    assert (ours >= F.interpolate(x, (11, 11), mode="bicubic") - 1e-12).all()
    assert float(ours.max()) > 1.1  # the weights sum up to 1, their absolute values to more
