"""One type of batch, whatever a data loader yields."""

import pytest
import torch
from pytorch_lightning.utilities import move_data_to_device
from torch.utils.data import DataLoader, TensorDataset

from dmn.data import ImageBatch, as_batch, concatenate
from dmn.data.batch import keep_batch
from dmn.errors import DataError

X, Y, MASK = torch.rand(5, 1, 4, 4), torch.arange(5), torch.ones(5, 1, 4, 4)


@pytest.mark.parametrize("kind", [tuple, list])
def test_tuples_and_lists_of_two_or_three_are_batches(kind):
    bare, masked = as_batch(kind([X, Y])), as_batch(kind([X, Y, MASK]))
    assert type(bare) is type(masked) is ImageBatch
    assert bare.image is X
    assert bare.label is Y
    assert bare.mask is None
    assert masked.mask is MASK
    assert as_batch(masked) is masked


def test_what_torch_collates_is_a_batch():
    for tensors in ((X, Y), (X, Y, MASK)):
        (batch,) = map(as_batch, DataLoader(TensorDataset(*tensors), batch_size=5))
        assert all(torch.equal(a, b) for a, b in zip(batch, tensors, strict=False))
        assert (batch.mask is None) == (len(tensors) == 2)


@pytest.mark.torture("a data loader yields {odd}", "refused; the message says what to yield")
@pytest.mark.parametrize(
    ("odd", "batch", "kind"),
    [
        ("a dictionary", {"image": X, "label": Y}, "a dict;"),
        ("images alone", X, "a Tensor;"),
        ("a tuple of one", (X,), "a tuple of 1;"),
        ("a list of four", [X, Y, MASK, Y], "a list of 4;"),
    ],
)
def test_anything_else_is_refused(odd, batch, kind, happened):
    with pytest.raises(DataError, match=f"the data yields {kind} make each batch a tuple") as told:
        as_batch(batch)
    happened(str(told.value))


def test_rows_are_taken_with_all_that_belongs_to_them():
    few = ImageBatch(X, Y, MASK).take(torch.tensor([3, 1]))
    assert torch.equal(few.image, X[[3, 1]])
    assert few.label.tolist() == [3, 1]
    assert few.mask.shape == (2, 1, 4, 4)
    assert ImageBatch(X, Y).take(slice(2)).mask is None


def test_batches_are_joined_if_all_or_none_have_masks():
    whole = ImageBatch(X, Y, MASK)
    for batch in (whole, ImageBatch(X, Y)):
        joined = concatenate([batch.take(slice(2)), batch.take(slice(2, None))])
        for a, b in zip(joined, batch, strict=True):
            assert (a is b is None) or torch.equal(a, b)
    with pytest.raises(DataError, match="some batches have masks and others have none"):
        concatenate([whole, ImageBatch(X, Y)])


class _Two(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitems__(self, keys):
        return ImageBatch(X[keys], Y[keys])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_without_masks_passes_loaders_and_lightning_s_transfer(workers):
    loader = DataLoader(_Two(), 2, num_workers=workers, collate_fn=keep_batch)
    for batch in loader:
        moved = move_data_to_device(batch, torch.device("cpu"))
        assert type(moved) is ImageBatch
        assert moved.mask is None
        assert torch.equal(moved.image, batch.image)
