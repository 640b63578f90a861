import pytest
import torch

from dmn.compare.card import accuracy, explanations
from dmn.errors import DataError, UnknownNameError
from dmn.hub import Network
from dmn.train.probe_callbacks import SCORED

CAM = {"class_path": "dmn.explain.SplitCAM", "init_args": {"layer": "stage1_1", "stream": "g"}}
LRP = {"class_path": "dmn.explain.SplitLRP", "init_args": {"stream": "g"}}
ANEW = {"class_path": "dmn.split.ResplitExplainer", "init_args": {"explainer": LRP}}


def network(model, explainers=None):
    return Network(
        "n", model, tuple("abc"), None, None, None, lambda x: x, {"explainers": explainers}
    )


def test_the_interval_is_wilsons():
    """Bounds are where the test of a proportion just rejects, at 1.96 standard deviations."""
    x, y = torch.zeros(20, 1, 1, 1), torch.tensor([0] * 17 + [1] * 3)

    def zero(x):
        return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    result = accuracy(network(zero), [(x[:12], y[:12]), (x[12:], y[12:])])
    assert (result["test"], result["n"]) == (0.85, 20)
    for bound in result["interval"]:
        deviation = (bound * (1 - bound) / 20) ** 0.5
        assert abs(0.85 - bound) / deviation == pytest.approx(1.96, abs=0.003)  # four digits


def test_every_explainer_of_the_card_and_the_floor_is_scored(pair):
    model = pair.float().eval()
    x = torch.rand(8, 1, 8, 8)
    y, masks = model(x).argmax(dim=1), (x > 0.5).float()
    batches = [(x[:5], y[:5], masks[:5]), (x[5:], (y[5:] + 1) % 3, masks[5:])]
    told = explanations(network(model, {"cam": CAM, "lrp": LRP}), batches, count=4)
    assert told["images"] == 4
    assert list(told["scores"]) == ["cam", "lrp", "Random", "Edges", "Centre"]
    for scores in told["scores"].values():
        assert list(scores) == SCORED
        for each in scores.values():
            if each["n"] > 1:
                low, high = each["interval"]
                assert low <= each["mean"] <= high
    assert (
        explanations(network(model, {"lrp": LRP}), batches)["images"] == 5
    )  # of 8 three are wrong
    with pytest.raises(DataError):
        explanations(network(model), batches[1:])


def test_ordinary_networks_are_explained_by_what_they_are_split_into(images):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3)
    ).eval()
    x = images.float()
    told = explanations(network(model, {"anew": ANEW}), [(x, model(x).argmax(dim=1))], count=2)
    assert told["scores"]["anew"]["Sparseness"]["n"] == 2
    assert told["scores"]["anew"]["PointingGame"] == {"mean": None, "interval": [None] * 2, "n": 0}


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "open", "dmn.cli.training.main"])
def test_a_card_makes_explainers_of_dmn_only(path):
    told = {"class_path": path, "init_args": {}}
    for explainer in (told, {**ANEW, "init_args": {"explainer": told}}):
        with pytest.raises(UnknownNameError, match=rf"'{path}' is not built, only dmn\.explain"):
            explanations(network(torch.nn.Identity(), {"evil": explainer}), [])
