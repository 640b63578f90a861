import json
import math
import re
import subprocess
import sys

import pytest
import torch
from known_maps import Column, InkIn

from dmn.errors import UnknownNameError
from dmn.evaluate import score
from dmn.evaluate.meter import ExplanationMeter
from dmn.explain import RandomMap

NAMES = ["Completeness", "RelevanceRankAccuracy", "MaxSensitivity", "RandomLogit"]
SCRIPT = """
import json, sys, warnings
import pytorch_lightning as pl
import quantus  # once, before the processes part
import torch
from torch.utils.data import DataLoader, TensorDataset
sys.path[:0] = {folders!r}
warnings.simplefilter("ignore")
from test_meter import NAMES, images
from known_maps import InkIn
from dmn.evaluate.meter import ExplanationMeter
from dmn.explain import RandomMap

class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.meter = InkIn(), ExplanationMeter(NAMES, seed=1)

    def test_step(self, batch, _):
        self.meter.update(self.net, RandomMap(2), *batch)

    def on_test_epoch_end(self):
        scores = {{name: float(value) for name, value in self.meter.compute().items()}}
        if self.trainer.is_global_zero:
            print(json.dumps([self.trainer.world_size, scores]))

options = dict(accelerator="cpu", devices=2, strategy="ddp_fork", logger=False)
trainer = pl.Trainer(enable_checkpointing=False, enable_progress_bar=False, **options)
trainer.test(Task(), DataLoader(TensorDataset(*images()), 3), verbose=False)
"""


def images():
    """Eight images: as many for each of two processes."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(8, 1, 8, 8, generator=generator)
    masks = (torch.rand(8, 1, 8, 8, generator=generator) > 0.5).float()
    x[6], masks[5] = 0, 0
    return x, torch.arange(8) % 4, masks


def test_batches_add_up_to_the_whole():
    x, y, masks = images()
    meter = ExplanationMeter(NAMES, seed=1, batch_size=2)
    for rows in (slice(0, 3), slice(3, 8)):
        meter.update(InkIn().eval(), RandomMap(2), x[rows], y[rows], masks[rows])
    whole = score(NAMES, InkIn().eval(), RandomMap(2), x, y, masks, seed=1)
    computed = meter.compute()
    for name, scores in whole.items():
        assert float(computed[name]) == pytest.approx(scores.mean, rel=1e-5)
        assert computed[f"{name}/count"] == scores.n
        assert computed[f"{name}/dropped"] == 8 - scores.n
    assert computed["RelevanceRankAccuracy/dropped"] == computed["Completeness/dropped"] == 1
    meter.reset()
    meter.update(InkIn().eval(), Column(), x, y)
    assert math.isnan(meter.compute()["RelevanceRankAccuracy"])


def test_the_model_is_no_part_of_the_meter():
    meter = ExplanationMeter(["Completeness"])
    meter.update(InkIn().eval(), Column(), *images())
    assert not list(meter.parameters())
    assert not meter.state_dict()


def test_unknown_metrics_are_refused_by_the_meter():
    with pytest.raises(UnknownNameError, match="no metric Truth"):
        ExplanationMeter(["Truth"])


@pytest.mark.slow  # train/test_two_processes.py scores by two, too
def test_two_processes_score_as_one(tmp_path, request):
    """Lightning's DDP on the CPU, each process with half of the images."""
    script = tmp_path / "ddp.py"
    script.write_text(SCRIPT.format(folders=[str(folder) for folder in request.path.parents[:2]]))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    world_size, scores = json.loads(
        next(line for line in done.stdout.splitlines() if re.match(r"\[\d", line))  # not "[Gloo]"
    )
    assert world_size == 2
    meter = ExplanationMeter(NAMES, seed=1)
    meter.update(InkIn().eval(), RandomMap(2), *images())
    expected = {name: float(value) for name, value in meter.compute().items()}
    assert scores == pytest.approx(expected, rel=1e-5)
    assert [scores[f"{name}/count"] for name in NAMES] == [7, 7, 8, 8]
