import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from dmn.data import MNIST
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


class Recorder(pl.LightningModule):
    """Notes what it is given in each epoch; a schedule asks for the number of steps before."""

    def __init__(self, scheduled):
        super().__init__()
        self.layer, self.seen, self.scheduled = torch.nn.Linear(28 * 28, 10), {}, scheduled

    def training_step(self, batch, batch_index):
        self.seen.setdefault(self.current_epoch, []).append(batch.image)
        return F.cross_entropy(self.layer(batch.image.flatten(1)), batch.label)

    def validation_step(self, batch, batch_index):
        pass

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.01)
        if not self.scheduled:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)]


@pytest.fixture
def run_epochs(make_trainer):
    def run(count, workers, scheduled, checkpoint=None):
        trainer = make_trainer(max_epochs=count, limit_train_batches=2, limit_val_batches=1)
        data = MNIST(num_workers=workers)
        trainer.fit(recorder := Recorder(scheduled), data, ckpt_path=checkpoint)
        return trainer, recorder.seen

    return run


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_sees_what_a_whole_one_does_whoever_loads_it(
    workers, scheduled, run_epochs, tmp_path
):
    _, whole = run_epochs(3, 0, scheduled)
    trainer, _ = run_epochs(1, 0, scheduled)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    _, resumed = run_epochs(3, workers, scheduled, tmp_path / "last.ckpt")
    assert list(resumed) == [1, 2]
    for epoch, batches in resumed.items():
        assert torch.equal(torch.cat(batches), torch.cat(whole[epoch]))
    assert not torch.equal(torch.cat(whole[0]), torch.cat(whole[1]))
