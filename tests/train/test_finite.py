import math
import re
import subprocess
import sys

import pytest
import pytorch_lightning as pl
import torch
from train_problem import Halves, make_task

from dmn.errors import RunError
from dmn.train import EpochCheckpoint, StopAtNonFinite


class Spoil(pl.Callback):
    """Spoils something in the second batch of the second epoch."""

    def __init__(self, what):
        self.what = what

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) != (1, 1):
            return
        if self.what == "image":
            batch[0][0, 0, :2] = math.nan
        if self.what == "loss":
            step = pl_module.training_step
            pl_module.training_step = lambda *args: step(*args) * math.inf

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if (trainer.current_epoch, trainer.fit_loop.batch_idx) == (1, 2) and self.what == "weights":
            pl_module.net.g.net.head.bias.grad.fill_(math.nan)


TOLD = {
    "image": r"the loss is nan in batch 1 of epoch 1; 16 of its pixels are not finite",
    "loss": r"the loss is inf in batch 1 of epoch 1; its images are finite: a lower learning rate",
    "weights": r"after epoch 1 there are NaN or infinite numbers in net\.g\.net\.head\.bias",
}


@pytest.mark.torture(
    "a number of the {what} is not finite while training",
    "an error that names batch and last good checkpoint, which holds finite weights",
)
@pytest.mark.parametrize("what", TOLD)
def test_training_stops_before_it_spoils_a_checkpoint(what, make_trainer, tmp_path, happened):
    keep = EpochCheckpoint(tmp_path / "c", "best", "val/acc", mode="max", save_last=True)
    trainer = make_trainer(StopAtNonFinite(), Spoil(what), keep, enable_checkpointing=True)
    with pytest.raises(RunError, match=TOLD[what]) as caught:
        trainer.fit(make_task(), Halves())
    happened(str(caught.value).replace(str(tmp_path), ""))
    last = tmp_path / "c" / "last.ckpt"
    assert f"good checkpoint is {last}; start from it by `dmn finetune" in str(caught.value)
    saved = torch.load(last, weights_only=True)
    assert saved["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())


@pytest.mark.torture(
    "a {what} becomes {value} after the last batch of an epoch",
    "the training stops before a checkpoint is written, and the number is named",
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("what", "key"),
    [("weight", "net.g.net.head.weight"), ("batch statistic", "net.h.net.stem.norm.running_var")],
)
def test_one_number_that_is_not_finite_beside_sound_ones_is_enough(
    what, key, value, make_trainer, happened
):
    class Spoiled(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.state_dict()[key].view(-1)[1] = value

    trainer = make_trainer(StopAtNonFinite(), Spoiled())
    with pytest.raises(RunError, match=f"after epoch 1 .* in {re.escape(key)}; a") as caught:
        trainer.fit(make_task(), Halves())
    happened(str(caught.value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_pixel_of_any_such_value_is_counted(value, make_trainer):
    class OnePixel(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batch[0][3, 0, 4, 4] = value

    with pytest.raises(RunError, match=r"in batch 0 of epoch 0; 1 of its pixels are not fin"):
        make_trainer(StopAtNonFinite(), OnePixel()).fit(make_task(), Halves())


def test_without_a_checkpoint_there_is_none_to_name(make_trainer):
    class Always(Halves):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] * math.nan, *batch[1:]]

    with pytest.raises(RunError, match=r"batch 0 of epoch 0.*There is no checkpoint yet"):
        make_trainer(StopAtNonFinite()).fit(make_task(), Always())


def test_a_sound_training_is_left_alone(task, data, make_trainer):
    def weights(*callbacks):
        task = make_task()
        make_trainer(*callbacks).fit(task, Halves())
        return task.state_dict()

    plain, watched = weights(), weights(StopAtNonFinite())
    assert all(torch.equal(plain[key], watched[key]) for key in plain)


TWO = """
import math, sys, warnings
import pytorch_lightning as pl
sys.path.insert(0, {tests!r})
warnings.simplefilter("ignore")
from train_problem import Halves, make_task
from dmn.train import StopAtNonFinite

class Spoil(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.global_rank, trainer.current_epoch, batch_idx) == (1, 1, 0):
            batch[0][:] = math.nan

trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=3, logger=False,
                     callbacks=[StopAtNonFinite(), Spoil()], enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(make_task(), Halves())
"""


@pytest.mark.slow
@pytest.mark.torture(
    "the loss of one of two processes is NaN", "both stop at once, and the batch is named"
)
def test_all_processes_stop(tmp_path, request, happened):
    script = tmp_path / "two.py"
    script.write_text(TWO.format(tests=str(request.config.rootpath / "tests")))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    happened(last)
    assert "loss is" in last
    assert "in batch 0 of epoch 1" in last
