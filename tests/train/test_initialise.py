import pytest
import safetensors.torch
import torch
from train_problem import make_task

from dmn.errors import CheckpointError
from dmn.nn import assert_monotone
from dmn.train import initialise


@pytest.fixture
def source(data, make_trainer, tmp_path):
    """Train a little, and save the same weights in every format that is read."""
    task = make_task()
    trainer = make_trainer(max_epochs=1)
    trainer.fit(task, data)
    trainer.save_checkpoint(tmp_path / "lightning.ckpt")
    torch.save(task.net.state_dict(), tmp_path / "state.pt")
    safetensors.torch.save_file(task.net.state_dict(), tmp_path / "state.safetensors")
    return task


@pytest.mark.parametrize("name", ["lightning.ckpt", "state.pt", "state.safetensors"])
def test_every_format_gives_the_weights_and_nothing_else(source, tmp_path, name):
    net = make_task(seed=9).net
    fit = initialise(net, tmp_path / name)
    state = source.net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert set(fit.loaded) == set(state)
    assert not fit.missing + fit.unexpected + fit.replaced
    assert fit.projected == 0
    assert str(fit) == f"loaded {len(state)} tensors"


def test_the_folder_of_a_run_stands_for_its_best_checkpoint(source, tmp_path):
    best = tmp_path / "version_0/checkpoints/best.ckpt"
    with pytest.raises(CheckpointError, match=r"best\.ckpt: there is no such file"):
        initialise(make_task().net, tmp_path)
    best.parent.mkdir(parents=True)
    (tmp_path / "lightning.ckpt").rename(best)
    net = make_task(seed=9).net
    initialise(net, best.parent.parent)
    state = source.net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_head_for_other_classes_keeps_its_start(source, tmp_path):
    net = make_task(seed=9, classes=5).net
    start = {key: value.clone() for key, value in net.state_dict().items()}
    fit = initialise(net, tmp_path / "state.pt")
    heads = {f"{side}.net.head.{kind}" for side in "gh" for kind in ("weight", "bias")}
    assert set(fit.replaced) == heads
    for key, value in net.state_dict().items():
        origin = start if key in heads else source.net.state_dict()
        assert torch.equal(value, origin[key]), key
    assert "replaced: g.net.head.weight, g.net.head.bias" in str(fit)
    assert_monotone(net)


def test_a_fresh_head_keeps_its_start_and_the_rest_is_loaded(source, tmp_path):
    """As many classes may be others: without the option their head would be taken silently."""
    net = make_task(seed=9).net
    start = {key: value.clone() for key, value in net.state_dict().items()}
    fit = initialise(net, tmp_path / "state.pt", fresh_head=True)
    heads = {f"{side}.net.head.{kind}" for side in "gh" for kind in ("weight", "bias")}
    assert set(fit.replaced) == heads
    assert set(fit.loaded) == set(start) - heads
    for key, value in net.state_dict().items():
        origin = start if key in heads else source.net.state_dict()
        assert torch.equal(value, origin[key]), key
    assert_monotone(net)


@pytest.mark.parametrize("constraint", ["square", "none"])
def test_heads_of_any_constraint_start_anew(tmp_path, constraint):
    torch.save(make_task(constraint=constraint).net.state_dict(), tmp_path / "own.pt")
    fits = [
        initialise(make_task(seed=9, classes=k, constraint=constraint).net, tmp_path / "own.pt", f)
        for k, f in ((2, True), (5, False))
    ]
    assert fits[0] == fits[1]
    assert len(fits[0].replaced) == 4
    assert all(".head." in key for key in fits[0].replaced)


def test_missing_and_unexpected_keys_are_reported(source, tmp_path):
    state = source.net.state_dict()
    del state["g.net.stem.conv.weight"]
    state["g.net.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "odd.pt")
    fit = initialise(make_task().net, tmp_path / "odd.pt")
    assert fit.missing == ("g.net.stem.conv.weight",)
    assert fit.unexpected == ("g.net.extra",)
    assert "missing: g.net.stem.conv.weight; unexpected: g.net.extra" in str(fit)


def test_the_constraint_is_kept(source, tmp_path):
    state = source.net.state_dict()
    state["h.net.stem.conv.weight"][0, 0, 0] = -1.0
    torch.save(state, tmp_path / "negative.pt")
    net = make_task().net
    fit = initialise(net, tmp_path / "negative.pt")
    assert fit.projected == 3
    assert "3 weights were negative" in str(fit)
    assert_monotone(net)


def test_other_shapes_than_the_heads_are_refused_by_name(source, tmp_path):
    state = source.net.state_dict()
    state["g.net.stem.conv.weight"] = torch.zeros(7, 2, 3, 3)
    torch.save(state, tmp_path / "wide.pt")
    with pytest.raises(
        CheckpointError, match=r"wide\.pt.*g\.net\.stem\.conv\.weight \(7, 2, 3, 3\)"
    ):
        initialise(make_task().net, tmp_path / "wide.pt")


@pytest.mark.torture("start from integers where weights are fractions", "refused by key and types")
def test_other_types_are_refused_by_name(source, tmp_path):
    state = source.net.state_dict()
    state["h.net.head.bias"] = state["h.net.head.bias"].long()
    torch.save(state, tmp_path / "whole.pt")
    with pytest.raises(
        CheckpointError, match=r"whole\.pt: of another type: h\.net\.head\.bias torch\.int64"
    ):
        initialise(make_task().net, tmp_path / "whole.pt")


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "else.pt")
    with pytest.raises(CheckpointError, match=r"else\.pt: no weight fits; it has encoder\.weight"):
        initialise(make_task().net, tmp_path / "else.pt")


@pytest.mark.parametrize("prefix", ["module.", "model.", "model.net.", "_orig_mod."])
@pytest.mark.parametrize("name", ["", "state_dict", "model_state_dict", "ema"])
def test_files_of_other_projects_are_read(prefix, name, tmp_path):
    """As `dmn.load` reads them: the weights behind a prefix, or under a name."""
    source = make_task().net.state_dict()
    named = {f"{prefix}{key}": value for key, value in source.items()}
    named["criterion.weight"] = torch.ones(2)
    torch.save({name: named, "epoch": 1} if name else named, tmp_path / "theirs.pth.tar")
    net = make_task(seed=9).net
    fit = initialise(net, tmp_path / "theirs.pth.tar")
    assert set(fit.loaded) == set(source)
    assert not fit.missing + fit.unexpected
    assert all(torch.equal(value, source[key]) for key, value in net.state_dict().items())
