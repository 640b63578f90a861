import pytest
import torch

from dmn.data.sampling import EpochSampler, RandomAffine


def order(sampler, epoch):
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_order_follows_from_seed_and_epoch_alone():
    first, second = (EpochSampler(range(20), 1, 0, seed=4) for _ in range(2))
    order(first, 0)
    assert order(first, 3) == order(second, 3)
    assert order(first, 3) != order(first, 4)
    assert {epoch for epoch, _ in order(first, 3)} == {3}
    assert sorted(index for _, index in order(first, 3)) == list(range(20))


def test_processes_share_the_images():
    shares = [order(EpochSampler(range(20), 2, rank, seed=1), 5) for rank in range(2)]
    assert sorted(index for share in shares for _, index in share) == list(range(20))


def test_augmentation_follows_from_seed_epoch_and_index_alone():
    images = torch.rand(6, 1, 9, 9)
    one, other = RandomAffine(6, seed=2), RandomAffine(6, seed=2)
    everything = one(images, 7, torch.arange(6))
    one(images, 8, torch.arange(6))
    for index in (4, 1):
        alone = other(images[index : index + 1], 7, torch.tensor([index]))
        assert torch.allclose(alone[0], everything[index], atol=1e-6)
    assert not torch.equal(one(images, 7, torch.arange(6)), one(images, 8, torch.arange(6)))
    assert not torch.equal(RandomAffine(6, seed=3)(images, 7, torch.arange(6)), everything)


def test_no_strength_is_the_identity():
    images = torch.rand(4, 1, 8, 8)
    still = RandomAffine(4, 0, degrees=0, scale=0, shift=0)
    assert torch.allclose(still(images, 1, torch.arange(4)), images, atol=1e-5)


@pytest.mark.parametrize("epoch", range(5))
def test_images_stay_in_range_and_move_little(epoch):
    image = torch.zeros(1, 1, 28, 28)
    image[..., 12:16, 12:16] = 1
    warped = RandomAffine(1, 0)(image, epoch, torch.tensor([0]))
    assert warped.min() >= 0
    assert warped.max() <= 1 + 1e-6
    assert warped.sum() == pytest.approx(float(image.sum()), rel=0.35)
    assert warped[..., 9:19, 9:19].sum() > 0.95 * warped.sum()
