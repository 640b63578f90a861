import torch

from dmn.nn import effective_rank
from dmn.train import RankLogger


def test_the_rank_of_every_activation_is_logged_each_epoch(task, data, make_trainer):
    trainer = make_trainer(RankLogger(images=16, every_n_epochs=1))
    trainer.fit(task, data)
    logged = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("rank/")}
    layers = ("stem", "stage1_1", "stage2_1")
    assert set(logged) == {f"rank/{side}.{layer}" for side in "gh" for layer in layers}
    task.eval()
    x = data.parts.tensors[0][:16]
    reading = task.net.read(x, torch.zeros(16, dtype=torch.long), ["stage2_1"])["stage2_1"]["h"]
    assert logged["rank/h.stage2_1"] == torch.tensor(effective_rank(reading.p)).float()
    assert "time/rank_s" in trainer.callback_metrics


def test_by_default_nothing_is_measured(task, data, make_trainer):
    trainer = make_trainer(RankLogger())
    trainer.fit(task, data)
    assert not any(name.startswith("rank/") for name in trainer.callback_metrics)
