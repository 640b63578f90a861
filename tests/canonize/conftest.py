"""What the tests of canonization share."""

import pytest
import torch


@pytest.fixture
def _double():
    """Compute in float64, and without gradients unless a test asks for them."""
    torch.set_default_dtype(torch.float64)
    with torch.no_grad():
        yield
    torch.set_default_dtype(torch.float32)
