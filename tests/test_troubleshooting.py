"""Every error in docs/troubleshooting.md is printed as the page has it.

The page is the source: an indented block that begins with `$` or `>>>` is run in an empty folder
with a few files, and the lines below must be printed, in this order. `...` stands for any text,
FOLDER for its path.
"""

import os
import re
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import browser
import pytest
import torch
from PIL import Image
from torch import nn

from dmn.cli.main import main
from dmn.explain import SplitLRP
from dmn.io.yaml import read_yaml, write_yaml
from dmn.models import DifferenceOfMonotone, MonotoneConvNet
from dmn.nn import assert_monotone
from dmn.split import split

PAGE = Path(__file__).parents[1] / "docs/troubleshooting.md"
BLOCK = re.compile(
    r"^### (?P<title>.+)\n\n    (?P<input>(?:\$|>>>) .+)\n(?P<told>(?:    .+\n)+)", re.M
)
BLOCKS = {found["title"]: found for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}
NETS = """
from torch import nn


def make(num_classes=3, channels=3):
    return nn.Sequential(
        *(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(4, num_classes),
    )


def deeper():
    return nn.Sequential(*make(), nn.ReLU(), nn.Linear(3, 3))


def grey():
    return make(channels=1)


def fixed():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 3))


def hooked():
    net = make()
    net[0].register_forward_hook(lambda *_: None)
    return net


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make()

    def forward(self, x):
        return self.net(x if x.mean() > 0 else -x)


class Maxout(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.hidden = nn.Linear(4, 8)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.conv(x).unflatten(1, (4, 2)).amax(2).mean((2, 3))
        return self.head(self.hidden(x).unflatten(1, (4, 2)).amax(2))


branching, maxout = Branching, Maxout
"""


class Missing:
    """A finder of packages that has none of torchcam's."""

    def find_spec(self, name, *_):
        if name == "torchcam":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def small():
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    )


def spoiled():
    """Return a pair with a negative weight."""
    pair = DifferenceOfMonotone(*(MonotoneConvNet(in_channels=2, num_classes=10) for _ in "gh"))
    with torch.no_grad():
        pair.g.net.stem.conv.weight[0] = -1
    return pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A newcomer's folder: pictures, networks, weights and a run."""
    made = tmp_path_factory.mktemp("newcomer")
    pictures = [f"{name}/{k}.png" for name in ("photos/cat/tabby", "half/cat") for k in range(4)]
    for name in ("photo.png", "flat/0.png", *pictures):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 40), "teal").save(made / name)
    Image.new("RGB", (32, 32), "teal").save(made / "small.png")
    (made / "half/dog").mkdir()
    (made / "notes.txt").write_text("no picture")
    (made / "nets.py").write_text(NETS)
    (made / "cut.zip").write_bytes(b"PK" + bytes(100))  # as a copy that was interrupted leaves it
    torch.save(small().state_dict(), made / "weights.pth")
    torch.save(small(), made / "whole.pth")
    run = made / "runs/debug/version_0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt").touch()  # options are compared before it is read
    config = read_yaml(printed("dmn fit --config debug --print_config", StringIO()).encode())
    config["model"] |= {"classes": list("0123456789"), "num_classes": 10}  # as linked to the data
    (run / "config.yaml").write_text(write_yaml(config))
    return made


def printed(command, errors=None):
    """Return what a command prints, run in this process; errors among it, or elsewhere."""
    output = StringIO()
    with redirect_stdout(output), redirect_stderr(errors or output):
        try:
            main(shlex.split(command)[1:])
        except SystemExit as end:
            print(end.code or "", file=sys.stderr)
    return output.getvalue()


def raised(code):
    """Return the line that Python prints for an error."""
    names = {"net": small().eval(), "x": torch.rand(2, 3, 8, 8), "pair": spoiled()}
    known = {"SplitLRP": SplitLRP, "split": split, "assert_monotone": assert_monotone}
    with pytest.raises(Exception) as error:  # noqa: PT011 - the page says which
        exec(code, {**names, **known})
    return f"{error.type.__module__}.{error.type.__name__}: {error.value}"


def pattern(line, folder):
    """Return what a line of the page stands for."""
    return re.escape(line).replace("FOLDER", re.escape(str(folder))).replace(r"\.\.\.", ".*")


@pytest.mark.parametrize("title", BLOCKS)
def test_an_error_is_printed_as_the_page_has_it(title, folder, monkeypatch):
    block = BLOCKS[title]
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend("")
    kind, _, given = block["input"].partition(" ")
    if "accelerator cuda" in given and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    if "package is missing" in title:
        for name in [each for each in sys.modules if each.partition(".")[0] == "torchcam"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    if "browser" in given:
        monkeypatch.setattr(browser, "fault", lambda: "none starts")
        monkeypatch.setattr(browser, "succeeds", lambda command: False)
        with pytest.raises(SystemExit) as end, redirect_stdout(StringIO()):
            browser.main()
        told = str(end.value)
    else:
        told = raised(given) if kind == ">>>" else printed(given)
    lines = iter(told.splitlines())
    for line in block["told"].splitlines():
        expected = re.compile(pattern(line[4:], os.path.realpath(folder)))
        assert any(expected.fullmatch(each) for each in lines), f"{line[4:]}\nis not in\n{told}"


def test_the_page_has_the_twenty_errors_that_users_meet_first():
    assert len(BLOCKS) >= 20
    shown = re.findall(r"^    (?:\$|>>>) ", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(shown) == len(BLOCKS)
