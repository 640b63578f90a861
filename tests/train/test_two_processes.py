"""Two processes train one network, with everything at once that a training can be given."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest

SCRIPT = """
import json, sys, warnings
from functools import partial
from pathlib import Path
import pytorch_lightning as pl
import quantus  # once, before the processes part
import torch
sys.path.insert(0, {tests!r})
warnings.simplefilter("ignore")
from train_problem import Halves, make_task
from dmn.baselines import GradCAM
from dmn.explain import SplitCAM
from dmn.tracking import EpochCSVLogger
from dmn.train import (BestExplanation, ExplanationPenalty, HeatmapLogger,
                       ProjectNonnegative, QuantusLogger, RankLogger, Unfreeze)

EPOCHS = {epochs}
told = []

class Told(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        self.keep(pl_module)
    def on_train_epoch_end(self, trainer, pl_module):
        self.keep(pl_module)
        metrics = trainer.callback_metrics.items()
        told[-1]["metrics"] = {{k: float(v) for k, v in metrics if not k.startswith("time/")}}
    def keep(self, task):
        told.append({{"weights": {{k: v.tolist() for k, v in task.net.named_parameters()}}}})

explainers = {{"splitcam": partial(SplitCAM, layer="stage1_1"),
              "gradcam": partial(GradCAM, layer="g.net.stage1_1")}}
terms = {{"outside": ExplanationPenalty("mask", 3.0, "stem")}}
task = make_task(explainers=explainers, terms=terms)
callbacks = [ProjectNonnegative(), Unfreeze(head_epochs=1, layers_per_epoch=2), Told(),
             QuantusLogger(["Sparseness", "PointingGame"], images=4), HeatmapLogger(2),
             RankLogger(4, 1), BestExplanation("quantus/Sparseness/splitcam", within=1.0)]
trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=EPOCHS,
                     callbacks=callbacks, logger=EpochCSVLogger("runs", "two"),
                     gradient_clip_val=1.0, enable_progress_bar=False,
                     enable_model_summary=False, log_every_n_steps=1)

class Writes(pl.Callback):
    def on_fit_end(self, trainer, pl_module):
        Path(f"{{trainer.global_rank}} of {{trainer.world_size}}.json").write_text(json.dumps(told))

trainer.callbacks.append(Writes())
trainer.fit(task, Halves())
(two,) = trainer.test(task, Halves(), verbose=False)
alone = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
(one,) = alone.test(task, Halves(), verbose=False)
Path("tested.json").write_text(json.dumps([one, two]))
"""


@pytest.mark.torture(
    "two processes train, with Unfreeze, ExplanationPenalty, heatmaps, Quantus' scores (Grad-CAM's "
    "too), ranks and BestExplanation at once, and test",
    "weights and metrics the same in both after each epoch, frozen layers bit-equal until thawed, "
    "evidence moves into the mask, one set of files; tested as by one process",
)
def test_all_callbacks_and_terms_at_once(tmp_path, request, full):
    script, epochs = tmp_path / "ddp.py", 20 if full else 4
    script.write_text(SCRIPT.format(tests=str(request.config.rootpath / "tests"), epochs=epochs))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f"{rank} of 2.json").read_text()) for rank in range(2))
    assert one == two
    assert len(one) == 1 + epochs
    states = [each["weights"] for each in one]
    changed = [
        {name.split(".")[2] for name in before if before[name] != after[name]}
        for before, after in pairwise(states)
    ]
    assert changed[:2] == [{"head"}, {"head", "stage2_1", "stage1_1"}]
    assert all(each == {"head", "stage2_1", "stage1_1", "stem"} for each in changed[2:])
    outside = [each["metrics"]["train/outside"] for each in one[1:]]
    assert outside[-1] < 0.9 * outside[0]
    assert {"val/acc", "rank/g.stem", "quantus/PointingGame/gradcam"} <= one[-1]["metrics"].keys()
    assert one[-1]["metrics"]["quantus/unscored"] < 1
    alone, both = json.loads((tmp_path / "tested.json").read_text())
    assert both == pytest.approx(alone, rel=1e-6)
    run = tmp_path / "runs/two/version_0"
    assert len(list(run.glob("heatmaps/*.png"))) == 2 * epochs
    assert (run / "checkpoints/best_explained.ckpt").is_file()
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + epochs
