"""What docs/how_to/extend.md says of adding a method, a metric, ... works as it is written."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_pairs import tiny_pair
from torch import nn

from dmn.evaluate import METRICS, score
from dmn.explain import RandomMap, SplitLRP, find_method
from dmn.explain.registry import _registered
from dmn.nn import assert_monotone, project
from dmn.rules.table import RULES
from dmn.split import split

PAGE = Path(__file__).parents[1] / "docs" / "how_to" / "extend.md"
EXAMPLES = dict(
    re.findall(
        r"<!-- tested: (\w+) -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S
    )
)


@pytest.fixture
def run():
    """Run an example, and forget afterwards what it has registered."""
    before = [(table, dict(table)) for table in (_registered, METRICS, RULES)]

    def example(name):
        names = {"__name__": f"example_{name}"}
        exec(compile(EXAMPLES[name], f"{PAGE.name}: {name}", "exec"), names)
        return names

    yield example
    for table, known in before:
        table.clear()
        table.update(known)


def test_every_example_is_tested():
    assert set(EXAMPLES) == {"method", "metric", "rule", "network", "data"}
    assert PAGE.read_text(encoding="utf-8").count("```python") == len(EXAMPLES)


def test_a_method(run):
    run("method")
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), torch.rand(2, 1, 8, 8)
    maps = find_method("gradientsquared", "post-hoc").factory(model)(x, [0, 2])
    expected = model[1].weight[[0, 2]].detach().square().view(2, 1, 8, 8)
    assert torch.allclose(maps, expected)


def test_a_metric(run):
    run("metric")
    x = torch.rand(3, 1, 8, 8)
    scores = score("PositiveShare", tiny_pair(), RandomMap(), x, [0, 1, 2])["PositiveShare"]
    assert scores.values == pytest.approx([1, 1, 1])


def test_a_rule(run):
    snake = run("rule")["Snake"]
    model = nn.Sequential(nn.Conv2d(1, 2, 3), snake(), nn.Flatten(), nn.Linear(72, 3)).eval()
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(split(model, x)(x), model(x))


def test_a_network(run):
    net = run("network")["net"]
    project(net)
    assert_monotone(net)
    assert SplitLRP(net)(torch.rand(2, 1, 28, 28)).shape == (2, 1, 28, 28)


def test_a_data_set(run, tmp_path):
    paths = [str(tmp_path / f"{name}.png") for name in "ab"]
    for path in paths:
        Image.new("RGB", (80, 70), "red").save(path)
    data = run("data")["TwoFolders"](paths[:1], paths[1:])
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch.image.shape == (2, 3, 64, 64)
    assert batch.label.tolist() == [0, 1]
