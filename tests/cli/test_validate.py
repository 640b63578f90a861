"""`dmn validate`, which Lightning runs in inference mode, scores every explainer of a config."""

import csv
import math
from pathlib import Path

import effort
import pytest
from photos import make_photos

from dmn.cli.main import main
from dmn.io.resources import CONFIGS, checkpoint_names

NAMES = {"mnist": "mnist_paired", "mnist_cnn": "", "folder": "scenes_front"}  # called otherwise
SPLIT = sorted(
    path.stem for path in CONFIGS.glob("*.yaml") if "ResplitExplainer" in path.read_text()
)
QUICK = {"mnist", "scenes_front"}  # trained as g - h, and split


@pytest.mark.parametrize("config", effort.slow_except(QUICK, [*SPLIT, "mnist"]))
def test_explainers_of_shipped_configs_are_scored(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos", "0123456789")  # for `folder`
    shipped = NAMES.get(config, config)
    assert not shipped or shipped in checkpoint_names()
    command = ["validate", "--config", config, "--trainer.limit_val_batches", "1"]
    command += ["--quantus.images", "2", "--quantus.metrics", "[Sparseness]"]
    command += ["--data.num_workers", "0", "--data.batch_size", "4", "--heatmaps.images", "1"]
    main([*command, *(["--ckpt_path", shipped] if shipped else [])])
    (path,) = Path("runs").rglob("metrics.csv")
    (row,) = csv.DictReader(path.read_text().splitlines())
    scores = {key: float(row[key]) for key in row if key.startswith("quantus/Sparseness/")}
    assert len(scores) > 2
    assert not [key for key, value in scores.items() if math.isnan(value)]
