"""What `Network.explain` returns is what the method gives, and is saved as it was."""

import hashlib

import pytest
import torch
from PIL import Image
from torch import nn

import dmn
import dmn.baselines
from dmn.errors import OptionError, TargetError, UnknownNameError, UnreadableImageError
from dmn.explain import Against, Explanation, SplitCAM, SplitLRP, find_method
from dmn.hub import Network
from dmn.hub.explaining import weights_sha256
from dmn.hub.preprocess import per_channel
from dmn.split import as_pair


@pytest.fixture(scope="module")
def digits():
    return dmn.load("mnist_paired")


@pytest.fixture(scope="module")
def cnn():
    """Make a network of one's own, that takes coloured pictures of 12 x 12 pixels."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 3)),
    ).eval()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)

    def transform(picture):
        x = picture if isinstance(picture, torch.Tensor) else torch.rand(3, 12, 12)
        return (x - per_channel(mean, 0.0)) / per_channel(std, 1.0)

    return Network("cnn", model, ("dog", "fox", "cat"), (3, 12, 12), mean, std, transform, {})


PICTURE = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_maps_are_those_of_the_method(cnn):
    made = cnn.explain(PICTURE, "splitlrp", "cat", "dog", streams=["g-h", "g"])
    x = cnn.transform(PICTURE)[None]
    assert (made.method, made.target, made.rival) == ("SplitLRP", 2, 0)
    assert list(made.maps) == ["g", "g-h"]
    for stream, values in made.maps.items():
        expected = SplitLRP(as_pair(cnn.model, x), stream=stream)(x, Against(2, 0))
        assert torch.equal(values[None], expected)
    assert torch.equal(made.x[None], x)
    assert torch.allclose(made.image, PICTURE, atol=1e-6)
    assert torch.equal(made.logits[None], cnn.model(x).detach())
    assert made.versions == {"dmn": dmn.__version__, "torch": torch.__version__}
    assert (made.picture, made.picture_sha256, made.network) == (None, None, "cnn")


@pytest.mark.parametrize(
    "name", ["SplitCAM", "SplitGrad", "SplitLRP", "GradCAM", "IntegratedGradients", "LRPEpsilon"]
)
@pytest.mark.parametrize("network", ["mnist_paired", "mnist_front", "cnn"])
def test_the_settings_make_the_same_maps_again(network, name, cnn):
    network = cnn if network == "cnn" else dmn.load(network)
    picture = PICTURE if network is cnn else torch.rand(network.size)
    made = network.explain(picture, name, against=True)
    x = network.transform(picture)[None]
    spec = find_method(name)
    for stream, values in made.maps.items():
        if spec.kind == "split":
            again = spec.factory(network.as_pair(x), stream=stream, **made.settings)
        else:
            again = spec.factory(network.ordinary, **made.settings)
        assert torch.equal(again(x, Against(made.target, made.rival))[0], values)


def test_options_are_the_methods(cnn):
    made = cnn.explain(PICTURE, "SplitCAM", 1, layer="0", alpha=0.3, part="n")
    assert made.settings == {"layer": "0", "alpha": 0.3, "part": "n"}
    expected = SplitCAM(cnn.as_pair(), "0", "g", "n", alpha=0.3)(made.x[None], 1)
    assert torch.equal(made.maps["g"], expected[0])
    assert cnn.explain(PICTURE, "Occlusion", window=0.5).settings == {"window": 0.5}
    with pytest.raises(OptionError, match=r"SplitLRP takes no option 'steps'; there are layer, "):
        cnn.explain(PICTURE, steps=3)
    with pytest.raises(OptionError, match="SplitLRP takes no option 'stream'"):
        cnn.explain(PICTURE, stream="g")


def test_a_stream_that_does_not_exist_is_refused(digits):
    with pytest.raises(OptionError, match="no stream 'all'; there are g, h, g-h"):
        digits.explain(torch.rand(1, 28, 28), streams=["all"])


def test_classes_are_the_predicted_ones_by_default(cnn):
    first, second = cnn.explain(PICTURE).logits.topk(2).indices.tolist()
    assert (cnn.explain(PICTURE).target, cnn.explain(PICTURE).rival) == (first, None)
    against = cnn.explain(PICTURE, against=True)
    assert (against.target, against.rival) == (first, second)
    assert cnn.explain(PICTURE, target=second, against=True).rival == first
    assert cnn.explain(PICTURE, against=False).rival is None
    assert cnn.explain(PICTURE, target=1, against=0).rival == 0
    with pytest.raises(TargetError, match="is its own rival"):
        cnn.explain(PICTURE, target=1, against=1)
    with pytest.raises(TargetError, match="no class 3"):
        cnn.explain(PICTURE, target=3)
    with pytest.raises(UnknownNameError, match="no class 'cow'"):
        cnn.explain(PICTURE, against="cow")
    with pytest.raises(UnknownNameError, match="no method 'magic'"):
        cnn.explain(PICTURE, "magic")


def test_a_file_is_named_with_its_hash(digits, tmp_path):
    file = tmp_path / "digit.png"
    Image.new("L", (28, 28), 90).save(file)
    made = digits.explain(file)
    assert made.picture == "digit.png"
    assert made.picture_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert torch.equal(made.x, digits.explain(str(file)).x)
    with pytest.raises(UnreadableImageError, match=r"none\.png: there is no such file"):
        digits.explain(tmp_path / "none.png")


@pytest.mark.parametrize("name", ["mnist_paired", "mnist_front", "scenes_resnet18"])
def test_the_hash_is_that_on_the_card_of_a_shipped_network(name):
    network = dmn.load(name)
    assert weights_sha256(network) == network.card["sha256"]


def test_the_hash_tells_weights_apart(cnn):
    before = weights_sha256(cnn)
    with torch.no_grad():
        cnn.model[0].bias[0] += 1
        after = weights_sha256(cnn)
        cnn.model[0].bias[0] -= 1
    assert before != after


@pytest.mark.parametrize("method", ["SplitLRP", "GradCAM"])
def test_it_is_saved_and_loaded_exactly(method, digits, tmp_path):
    made = digits.explain(torch.rand(1, 28, 28), method, against="8", target="3")
    loaded = Explanation.load(made.save(tmp_path / "digit.zip"))
    assert loaded.settings == made.settings
    assert loaded.classes == digits.classes
    for stream, values in made.maps.items():
        assert torch.equal(loaded.maps[stream], values)
