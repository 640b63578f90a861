"""Wrappers are seen through; what has lost its Python code is refused by name."""

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.export import unflatten
from torch.utils.data import DataLoader, TensorDataset

from dmn.canonize import canonize, canonized
from dmn.errors import UnsupportedError
from dmn.split import split

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")


def network():
    torch.manual_seed(2)
    layers = (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    layers[1].running_mean.normal_()
    return nn.Sequential(*layers).eval()


def images():
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(3))


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compile": compiled,
    "DataParallel of compile": lambda model: nn.DataParallel(compiled(model)),
    "compile of DataParallel": lambda model: compiled(nn.DataParallel(model)),
    "compile in place": compiled_in_place,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_network_is_the_network(wrap):
    model, x = network(), images()
    expected, layers = model(x), split(model, x).layers
    wrapped = wrap(model)
    ours = split(wrapped, x)
    assert torch.equal(ours(x), expected)
    assert ours.layers == layers
    assert ours.name == "Sequential"
    assert torch.allclose(canonize(wrapped, x)(x), expected, atol=1e-5)
    assert torch.equal(wrapped(x), expected)  # not changed


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_inside_a_network_leave_no_trace(wrap):
    plain, x = nn.Sequential(nn.ReLU(), network()), images()
    expected, layers = plain(x), split(plain, x).layers
    outer = nn.Sequential(nn.ReLU(), wrap(network()))
    ours = split(outer, x)
    assert torch.equal(ours(x), expected)
    assert ours.layers == layers
    assert [name for name, _ in outer.named_children()] == ["0", "1"]
    assert torch.equal(outer(x), expected)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_behaves_as_canonized_within_the_block_only(wrap):
    x = images()
    expected, wrapped = network()(x), wrap(network())
    names = [name for name, _ in wrapped.named_modules()]
    with canonized(wrapped, x):
        assert torch.allclose(wrapped(x), expected, atol=1e-5)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in wrapped.modules())
    assert [name for name, _ in wrapped.named_modules()] == names
    assert torch.equal(wrapped(x), expected)


def exported():
    return torch.export.export(network(), (images(),))


WITHOUT_CODE = {
    "scripted": (lambda: torch.jit.script(network()), "the model .*TorchScript"),
    "traced": (lambda: torch.jit.trace(network(), images()), "the model .*TorchScript"),
    "scripted inside": (
        lambda: nn.Sequential(nn.ReLU(), nn.Sequential(torch.jit.script(network()))),
        r"'1\.0' is a TorchScript.*give the nn\.Module",
    ),
    "exported": (lambda: exported().module(), r"torch\.export.*give the nn\.Module"),
    "exported inside": (lambda: nn.Sequential(exported().module()), r"'0' .*torch\.export"),
    "exported program": (exported, r"torch\.export.*give the nn\.Module"),
    "unflattened": (lambda: unflatten(exported()), r"torch\.export"),
    "function": (lambda: torch.relu, "not a torch.nn.Module"),
}


@pytest.mark.parametrize("name", WITHOUT_CODE)
def test_what_has_no_python_code_is_refused_in_one_line(name):
    make, message = WITHOUT_CODE[name]
    model = make()
    for transform in (split, canonize):
        with pytest.raises(UnsupportedError, match=message) as refused:
            transform(model, images())
        assert len(refused.value.lines) == 1


class WithNet(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


class WithItsOwnForward(WithNet):
    def forward(self, x):
        assert x.shape[1] == 2
        for layer in self.net[:3]:
            x = layer(x)
        return self.net[4](x.view(len(x), -1))


def fitted(module, tmp_path):
    """Train for a step: the module then holds its trainer."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(TensorDataset(images()), 2))
    return module.eval()


@pytest.mark.parametrize("kind", [WithNet, WithItsOwnForward])
@pytest.mark.parametrize("wrap", [lambda module: module, nn.DataParallel, compiled])
@pytest.mark.filterwarnings("ignore")
def test_lightning_modules_are_networks_like_others(kind, wrap, tmp_path):
    module, x = wrap(fitted(kind(), tmp_path)), images()
    ours = split(module, x)
    assert torch.equal(ours(x), module(x))
    assert {"net.0", "net.2"} <= set(ours.layers)
    assert torch.allclose(canonize(module, x)(images()), module(x), atol=1e-5)
