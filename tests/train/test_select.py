import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from dmn.errors import UnknownNameError
from dmn.train import BestExplanation

SCORE = "quantus/Sparseness/splitcam"


class Fabricated(pl.LightningModule):
    """Log given accuracies and scores, an epoch each; its weight counts the epochs."""

    def __init__(self, *epochs, name=SCORE):
        super().__init__()
        self.epochs, self.name = epochs, name
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        return -self.weight

    def validation_step(self, batch, index):
        accuracy, score = self.epochs[self.current_epoch]
        self.log("val/acc", accuracy)
        if score is not None:
            self.log(self.name, score)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.fixture
def select(make_trainer, tmp_path):
    """Train with the rule; return the number of the epoch kept, from 1, and the rule."""

    def run(*epochs, resume=None, stop=None, **options):
        best = BestExplanation(SCORE, **options)
        last = ModelCheckpoint(save_last=True, enable_version_counter=False)
        loader = DataLoader([0])
        trainer = make_trainer(
            last,
            best,
            enable_checkpointing=True,
            max_epochs=stop or len(epochs),
            num_sanity_val_steps=0,
        )
        trainer.fit(Fabricated(*epochs), loader, loader, ckpt_path=resume)
        path = tmp_path / "checkpoints" / "best_explained.ckpt"
        assert best.best_model_path == str(path)
        state = torch.load(path, weights_only=True)["state_dict"]
        return int(state["weight"]), best

    return run


@pytest.mark.parametrize(
    ("kept", "epochs"),
    [
        (2, [(0.90, 0.1), (0.90, 0.5), (0.90, 0.3)]),  # the best score
        (1, [(0.90, 0.1), (0.89, 0.9)]),  # not at any price
        (2, [(0.900, 0.1), (0.896, 0.9)]),  # at a small one
        (3, [(0.80, 0.9), (0.85, 0.8), (0.90, 0.1)]),  # what falls behind goes, whatever its score
        (4, [(0.80, 0.9), (0.90, 0.1), (0.85, 0.8), (0.90, 0.2)]),
        (2, [(0.90, math.nan), (0.90, 0.1), (0.90, math.nan)]),  # no score is no improvement
        (1, [(0.90, math.nan), (0.90, math.nan)]),
        (3, [(0.80, 0.9), (0.90, 0.1), (0.95, math.nan)]),  # the constraint comes first
        (4, [(0.80, 0.9), (0.90, 0.1), (0.95, math.nan), (0.95, 0.0)]),
        (2, [(0.90, None), (0.90, 0.1)]),
    ],
)
def test_the_best_explained_of_the_nearly_most_accurate_is_kept(select, kept, epochs):
    assert select(*epochs)[0] == kept


def test_scores_may_be_better_when_small(select):
    assert select((0.9, 0.5), (0.9, 0.1), (0.9, 0.3), mode="min")[0] == 2


def test_how_much_accuracy_is_worth_can_be_said(select):
    assert select((0.9, 0.5), (0.8, 0.9), within=0.2)[0] == 2


def test_a_resumed_run_keeps_what_a_whole_one_does(select, tmp_path):
    epochs = [(0.80, 0.9), (0.90, 0.5), (0.90, 0.4), (0.80, 0.8), (0.91, 0.1)]
    whole, expected = select(*epochs)
    select(*epochs, stop=3)
    resumed, best = select(*epochs, resume=tmp_path / "checkpoints" / "last.ckpt")
    assert resumed == whole == 5
    assert best.best_accuracy == expected.best_accuracy == pytest.approx(0.91)
    select(*epochs[:4], stop=3)
    assert select(*epochs[:4], resume=tmp_path / "checkpoints" / "last.ckpt")[0] == 2


def test_a_score_that_is_never_logged_is_named(make_trainer):
    trainer = make_trainer(BestExplanation("quantus/Truth/it"), enable_checkpointing=True)
    with pytest.raises(UnknownNameError, match=f"no score quantus/Truth/it; there are {SCORE}"):
        trainer.fit(Fabricated((0.9, 0.1)), DataLoader([0]), DataLoader([0]))
