import logging
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from train_problem import Halves, make_task

from dmn.errors import UnknownNameError
from dmn.evaluate import METRICS, score
from dmn.explain import RandomMap, SplitCAM, controls
from dmn.tracking import EpochCSVLogger
from dmn.train import HeatmapLogger, QuantusLogger, probe_callbacks
from dmn.train.probe_callbacks import SCORED
from dmn.viz.panels import CELL, GAP, LABEL


@pytest.fixture
def logger(tmp_path):
    return EpochCSVLogger(tmp_path, "run")


def test_heatmaps_of_every_epoch_and_method_are_saved(task, data, make_trainer, logger, tmp_path):
    make_trainer(HeatmapLogger(images=3), logger=logger).fit(task, data)
    folder = tmp_path / "run" / "version_0" / "heatmaps"
    assert {path.name for path in folder.iterdir()} == {
        f"{method}_epoch_{epoch:03d}.png"
        for method in ("splitcam", "splitlrp")
        for epoch in range(2)
    }
    with Image.open(folder / "splitlrp_epoch_001.png") as opened:
        picture = np.asarray(opened)
    assert picture.shape[1] == LABEL + 4 * (CELL + GAP)  # image, g, h, g - h
    red = (picture[..., 0].astype(int) - picture[..., 2]) > 60
    blue = (picture[..., 2].astype(int) - picture[..., 0]) > 60
    of_g = slice(LABEL + CELL + GAP, LABEL + 2 * (CELL + GAP))
    of_h = slice(LABEL + 2 * (CELL + GAP), LABEL + 3 * (CELL + GAP))
    assert red[:, of_g].any()
    assert not blue[:, of_g].any()
    assert blue[:, of_h].any()
    assert not red[:, of_h].any()


def test_other_explainers_are_drawn_as_one_map(data, make_trainer, logger, tmp_path):
    task = make_task(explainers={"noise": lambda net: RandomMap()})
    make_trainer(HeatmapLogger(2), logger=logger, max_epochs=1).fit(task, data)
    path = tmp_path / "run" / "version_0" / "heatmaps" / "noise_epoch_000.png"
    with Image.open(path) as picture:
        assert picture.width == LABEL + 2 * (CELL + GAP)


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (None, ("0", "1")),
        (["Γάτα", "chat noir"], ("Γάτα", "chat noir")),
        (["a", "one that is longer than a row"], ("a", "one that is longer\nthan a row")),
        (["犬", "tab\there"], ("class 0", "tab\\there")),
    ],
)
def test_rows_name_the_classes_as_far_as_they_can_be_drawn(
    names, written, data, make_trainer, monkeypatch
):
    task, rows = make_task(), []
    if names:
        task.classes = tuple(names)
    draw = probe_callbacks.panel
    monkeypatch.setattr(
        probe_callbacks,
        "panel",
        lambda c, names, *rest: rows.extend(names) or draw(c, names, *rest),
    )
    make_trainer(HeatmapLogger(images=4), max_epochs=1).fit(task, data)
    assert len(rows) == 2 * 4  # of two methods
    for row, label in zip(rows, 2 * data.parts[:4][1].tolist(), strict=True):
        assert row.startswith(f"true {written[label]}\nsaid ")
        assert row.partition("\nsaid ")[2] in written


def test_every_metric_of_every_method_and_control_is_logged(task, data, make_trainer):
    trainer = make_trainer(QuantusLogger(images=4))
    trainer.fit(task, data)
    methods = ["splitcam", "splitlrp", *controls()]
    for metric in SCORED:
        for method in methods:
            value = trainer.callback_metrics[f"quantus/{metric}/{method}"]
            assert math.isfinite(value), (metric, method)
    assert trainer.callback_metrics["quantus/unscored"] == 0
    assert trainer.callback_metrics["time/quantus_s"] > 0


def test_logged_scores_are_those_of_the_first_validation_images(task, data, make_trainer):
    trainer = make_trainer(QuantusLogger(images=20, seed=3), max_epochs=1)
    trainer.fit(task, data)
    x, y, masks = (values[:20] for values in data.parts.tensors)
    expected = score(SCORED, task, task.explainers["splitcam"], x, y, masks, seed=3)
    for metric, scores in expected.items():
        logged = float(trainer.callback_metrics[f"quantus/{metric}/splitcam"])
        assert logged == pytest.approx(scores.mean, rel=1e-4), metric


def test_watching_does_not_change_training(data, make_trainer):
    def weights(*callbacks):
        pl.seed_everything(1)
        task = make_task()
        make_trainer(*callbacks).fit(task, data)
        return task.state_dict()

    plain, watched = weights(), weights(QuantusLogger(images=4), HeatmapLogger(2))
    assert all(torch.equal(plain[key], watched[key]) for key in plain)


def test_failures_are_counted_logged_and_never_stop_training(
    data, make_trainer, logger, tmp_path, caplog
):
    class Broken:
        def __init__(self, net):
            pass

        def __call__(self, x, target=None):
            raise RuntimeError("no luck")

    class Zero(Broken):
        def __call__(self, x, target=None):
            return torch.zeros(len(x), 1, 8, 8)

    explainers = {"broken": Broken, "zero": Zero, "cam": partial(SplitCAM, layer="stem")}
    task = make_task(explainers=explainers)
    quantus = QuantusLogger(images=4, metrics=["Sparseness", "PointingGame"])
    trainer = make_trainer(quantus, HeatmapLogger(2), logger=logger)
    with caplog.at_level(logging.WARNING, "dmn"):
        trainer.fit(task, data)
    assert trainer.current_epoch == 2
    metrics = trainer.callback_metrics
    assert math.isnan(metrics["quantus/Sparseness/broken"])
    assert math.isnan(metrics["quantus/Sparseness/zero"])
    assert metrics["quantus/PointingGame/zero"] == 0
    assert math.isfinite(metrics["quantus/Sparseness/cam"])
    assert metrics["quantus/unscored"] == pytest.approx(3 / 12)  # 3 of (3 + 3) x 2 cells
    said = [record.getMessage() for record in caplog.records]
    for remark, count in {
        "quantus: broken: RuntimeError: no luck": 16,
        "quantus: zero: map is constant": 8,
        "quantus: zero: map is constant, scored 0": 8,
        "heatmap: heatmap of broken failed by RuntimeError": 2,
    }.items():
        assert f"{remark}: {count} times in all" in said
    assert "quantus: broken: RuntimeError: no luck (first by Sparseness in epoch 0)" in said
    assert said.count("heatmap: heatmap of broken failed by RuntimeError: no luck") == 1
    assert (tmp_path / "run/version_0/heatmaps/cam_epoch_001.png").exists()


@pytest.mark.torture(
    "every metric of Quantus raises while training",
    "it trains on; each reason is logged once, with a count",
)
def test_every_metric_may_raise(data, make_trainer, caplog, monkeypatch):
    def broken(name):
        def measure(batch):
            raise ZeroDivisionError(name)

        return measure

    for name, spec in METRICS.items():
        monkeypatch.setitem(METRICS, name, replace(spec, measure=broken(name), arrange=None))
    cam = {"cam": partial(SplitCAM, layer="stem")}
    quantus = QuantusLogger(list(METRICS), images=3, with_controls=False)
    trainer = make_trainer(quantus)
    with caplog.at_level(logging.WARNING, "dmn"):
        trainer.fit(make_task(explainers=cam), data)
    assert trainer.current_epoch == 2
    assert trainer.callback_metrics["quantus/unscored"] == 1
    said = [record.getMessage() for record in caplog.records]
    for name in METRICS:
        reason = f"quantus: cam: ZeroDivisionError: {name}"
        assert said.count(f"{reason} (first by {name} in epoch 0)") == 1
        assert said.count(f"{reason}: 6 times in all") == 1


@pytest.mark.torture(
    "a map is {kind} while training", "it trains on; the score is missing, the reason logged once"
)
@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("NaN", math.nan, "map is not finite"),
        ("infinite", math.inf, "map is not finite"),
        ("zero", 0.0, "map is constant"),
        ("constant", 3.0, "map is constant"),
    ],
)
def test_degenerate_maps_do_not_stop_training(
    kind, value, reason, data, make_trainer, logger, caplog
):
    class Degenerate:
        def __init__(self, net):
            pass

        def __call__(self, x, target=None):
            return torch.full((len(x), 1, 8, 8), value)

    quantus = QuantusLogger(["Sparseness"], images=3, with_controls=False)
    trainer = make_trainer(quantus, HeatmapLogger(2), logger=logger)
    with caplog.at_level(logging.WARNING, "dmn"):
        trainer.fit(make_task(explainers={"odd": Degenerate}), data)
    assert trainer.current_epoch == 2
    assert math.isnan(trainer.callback_metrics["quantus/Sparseness/odd"])
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warned] == [
        f"quantus: odd: {reason} (first by Sparseness in epoch 0)",
        f"quantus: odd: {reason}: 6 times in all",
    ]


@pytest.mark.torture(
    "a logger of one's own raises at each call", "it trains on; each reason is logged once"
)
def test_a_watcher_or_logger_that_breaks_never_stops_training(
    data, make_trainer, tmp_path, caplog, monkeypatch
):
    class Full(EpochCSVLogger):
        def write_row(self, row, step):
            raise OSError("no space left on device")

        def log_image(self, key, images):
            raise ConnectionError("lost")

    trainer = make_trainer(HeatmapLogger(2), logger=Full(tmp_path, "run"))
    with caplog.at_level(logging.WARNING, "dmn"):
        trainer.fit(make_task(), data)
    assert trainer.current_epoch == 2
    said = [record.getMessage() for record in caplog.records]
    assert said.count("heatmap: heatmap of splitcam failed by ConnectionError: lost") == 1
    assert "heatmap: heatmap of splitcam failed by ConnectionError: 2 times in all" in said
    assert said.count("Full: flush failed by OSError: no space left on device") == 1
    assert "Full: flush failed by OSError: 2 times in all" in said


def test_checkpoints_and_early_stopping_can_monitor_scores(data, make_trainer, tmp_path):
    """A missing score counts as no improvement, and does not stop the run by itself."""

    class LateMap(SplitCAM):
        def __call__(self, x, target=None):
            late = self.calls = getattr(self, "calls", -1) + 1
            return super().__call__(x, target) * (0 if late == 0 else 1)

    task = make_task(explainers={"late": partial(LateMap, layer="stem")})
    key = "quantus/Sparseness/late"
    best = ModelCheckpoint(tmp_path / "c", "best", monitor=key, mode="max")
    stop = EarlyStopping(key, patience=2, mode="max")
    quantus = QuantusLogger(["Sparseness"], images=4, with_controls=False)
    trainer = make_trainer(quantus, stop, best, enable_checkpointing=True, max_epochs=3)
    trainer.fit(task, data)
    assert trainer.current_epoch == 3
    assert math.isfinite(best.best_model_score)
    assert (tmp_path / "c" / "best.ckpt").exists()


def test_watching_can_be_rarer_or_off(task, data, make_trainer, logger, tmp_path):
    rare = QuantusLogger(["Sparseness"], images=2, every_n_epochs=2)
    seen = []
    rare.on_probe = lambda trainer, *_: seen.append(trainer.current_epoch)
    off = HeatmapLogger(every_n_epochs=0)
    make_trainer(rare, off, max_epochs=5, logger=logger).fit(task, data)
    assert seen == [1, 3, 4]  # each second, and the last
    assert not (tmp_path / "run/version_0/heatmaps").exists()


@pytest.mark.parametrize(("every", "files"), [(1, 2), (5, 2), (0, 0)])
def test_validating_alone_is_watched_however_rarely_training_is(
    every, files, task, data, make_trainer, logger, tmp_path
):
    make_trainer(HeatmapLogger(2, every), logger=logger).validate(task, data, verbose=False)
    assert len(list(tmp_path.glob("run/**/*.png"))) == files


def test_data_without_masks_is_scored_where_none_is_needed(task, make_trainer):
    trainer = make_trainer(QuantusLogger(images=3, with_controls=False), max_epochs=1)
    trainer.fit(task, Halves(masks=False))
    assert math.isnan(trainer.callback_metrics["quantus/PointingGame/splitcam"])
    assert math.isfinite(trainer.callback_metrics["quantus/Sparseness/splitcam"])


def test_unknown_metrics_are_refused_at_once():
    with pytest.raises(UnknownNameError, match="no metric Truth; there are PixelFlipping"):
        QuantusLogger(["Truth"])
