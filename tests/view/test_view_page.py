"""The page of `dmn view` in a real browser: what it shows is what torch computes."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from browser import launched, visits
from PIL import Image
from torch import nn

from dmn.errors import DataError, MissingPackageError, OptionError, UnknownNameError
from dmn.explain import Against, SplitLRP
from dmn.hub import Network, load
from dmn.view import write_page
from dmn.view.runtime import browser_runtime
from dmn.viz import DARK, LIGHT, overlay

PHONE = {"width": 360, "height": 740}
HOSTILE = "</script><script>document.title='owned'</script>{{7*7}}"


@pytest.fixture(scope="module")
def paired():
    return load("mnist_paired")


@pytest.fixture(scope="module")
def digits():
    from dmn.data import MNIST

    data = MNIST()
    data.setup("test")
    return data.test.images[:2]


@pytest.fixture(scope="module")
def page(tmp_path_factory, paired, digits):
    images = {"a zero": digits[0], "a one": digits[1]}
    path = tmp_path_factory.mktemp("view") / "view.html"
    return write_page(paired, path, images, ["SplitLRP", "SplitCAM"])


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


@pytest.fixture
def visit(browser):
    with visits(browser, "body[data-shown]", ("file:", "data:", "blob:")) as visit:
        yield visit


def shown(page, state):
    """Wait until a class, a rival and a stream are shown; return the map's pixels."""
    page.locator(f'body[data-shown="{state}"]').wait_for()
    picture = page.evaluate("document.getElementById('map').toDataURL().split(',')[1]")
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def drawn(x, maps, style=LIGHT, against=False):
    return (overlay(x, maps, against, style)[0].permute(1, 2, 0) * 255).round().int().numpy()


@pytest.mark.parametrize(("scheme", "style"), [("light", LIGHT), ("dark", DARK)])
def test_maps_are_drawn_as_python_draws_them(page, visit, paired, digits, scheme, style):
    opened = visit(page, color_scheme=scheme)
    x = digits[:1]
    maps = SplitLRP(paired.model, stream="g-h")(x, 0)
    assert np.abs(shown(opened, "0/-1/g-h") - drawn(x, maps, style)).max() <= 2


def test_a_class_is_shown_against_a_rival(page, visit, paired, digits):
    opened = visit(page)
    opened.locator("#target").select_option("3")
    opened.locator("#rival").select_option("8")
    x = digits[:1]
    expected = drawn(x, SplitLRP(paired.model, stream="g-h")(x, Against(3, 8)))
    assert np.abs(shown(opened, "3/8/g-h") - expected).max() <= 3
    opened.get_by_label("h: counter-evidence").check()
    maps = SplitLRP(paired.model, stream="h")(x, Against(3, 8))
    assert np.abs(shown(opened, "3/8/h") - drawn(x, maps, against=True)).max() <= 3


def test_images_methods_and_bars_are_chosen_by_keyboard(page, visit):
    opened = visit(page)
    opened.locator("#images button").nth(1).press("Enter")
    first = shown(opened, "1/-1/g-h")
    assert opened.locator("#images button").nth(1).get_attribute("aria-pressed") == "true"
    opened.locator("#method").select_option("SplitCAM")
    opened.locator("#bars button").nth(4).press("Enter")
    assert (shown(opened, "4/-1/g-h") != first).any()
    assert opened.locator("#bars button").nth(4).get_attribute("aria-pressed") == "true"
    assert opened.locator("#target").input_value() == "4"


def test_the_map_tells_its_values(page, visit, paired, digits):
    opened = visit(page)
    shown(opened, "0/-1/g-h")
    canvas = opened.get_by_label("The map over the image")
    box = canvas.bounding_box()
    opened.mouse.move(box["x"] + box["width"] * 10.5 / 28, box["y"] + box["height"] * 12.5 / 28)
    text = opened.locator("#value").inner_text()
    column, row, value = re.match(r"column (\d+), row (\d+): map (\S+),", text).groups()
    assert (column, row) == ("10", "12")
    maps = SplitLRP(paired.model, stream="g-h")(digits[:1], 0)
    assert float(value) == pytest.approx(float(maps[0, 0, 12, 10]), rel=0.02, abs=1e-4)
    canvas.press("ArrowRight")
    assert opened.locator("#value").inner_text().startswith("column 11, row 12")


def test_opacity_fades_the_map(page, visit, digits):
    opened = visit(page)
    shown(opened, "0/-1/g-h")
    opened.locator("#opacity").fill("0")
    faded = shown(opened, "0/-1/g-h")
    plain = drawn(digits[:1], torch.zeros(1, 1, 28, 28))
    assert np.abs(faded - plain).max() <= 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_does_not_scroll_sideways(page, visit, scheme):
    opened = visit(page, viewport=PHONE, color_scheme=scheme)
    assert opened.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_split_network_has_a_slider_for_alpha(tmp_path, visit):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )
    network = Network("own", net.eval(), (), (3, 8, 8), None, None, None, {})
    images = {"noise": torch.rand(3, 8, 8)}
    path = write_page(network, tmp_path / "v.html", images, alphas=[0.3, 0.45], top=2)
    opened = visit(path)
    assert opened.locator("#streams").is_hidden()  # there is one
    assert opened.locator("#target").locator("option").count() == 3  # predicted, and two
    before = opened.evaluate("document.getElementById('map').toDataURL()")
    opened.locator("#alpha").fill("1")
    opened.locator("#alpha-value", has_text="0.45").wait_for()
    assert opened.locator("#alpha").get_attribute("aria-valuetext") == "0.45"
    names = opened.locator(".facts dt").all_text_contents()
    assert names[1:3] == ["SplitLRP, alpha 0.3", "SplitLRP, alpha 0.45"]
    opened.wait_for_timeout(200)
    assert opened.evaluate("document.getElementById('map').toDataURL()") != before


def test_logits_and_probabilities_are_beside_their_classes(page, visit, paired, digits):
    opened = visit(page)
    shown(opened, "0/-1/g-h")
    logits = paired.model(digits[:1])[0]
    rows = opened.locator("#bars button").all_inner_texts()
    texts = [row.split("\n") for row in rows]
    shares = 100 * logits.softmax(dim=0)
    assert [text[0] for text in texts] == list(paired.classes)
    assert [float(text[1]) for text in texts] == pytest.approx(logits.tolist(), abs=0.006)
    assert [float(text[2].split()[0]) for text in texts] == pytest.approx(shares.tolist(), abs=0.06)


def test_saved_explanations_are_shown_as_they_are(paired, digits, tmp_path, visit):
    import dmn.baselines  # noqa: F401 - registers IntegratedGradients

    x = digits[1]
    explanation = paired.explain(x, "IntegratedGradients", target=1, against=7)
    path = write_page(
        paired, tmp_path / "v.html", {"a zero": digits[0]}, explanations={"one.zip": explanation}
    )
    opened = visit(path)
    button = opened.locator("#images button").nth(1)
    name = "one.zip: IntegratedGradients, why 1 and not 7?"
    assert button.get_attribute("title") == name
    button.click()
    pixels = shown(opened, "1/7/g-h")
    assert np.abs(pixels - drawn(x[None], explanation.maps["g-h"][None])).max() <= 2
    assert opened.locator("#name").inner_text() == name
    for choice, text in {"target": "1", "rival": "7", "method": "IntegratedGradients"}.items():
        assert opened.locator(f"#{choice}").is_disabled()
        assert opened.locator(f"#{choice} option:checked").inner_text() == text
    opened.locator("#images button").first.click()
    shown(opened, "0/-1/g-h")
    assert opened.locator("#method option:checked").inner_text() == "SplitLRP"
    assert opened.locator("#target").is_enabled()


def test_explanations_alone_make_a_page(paired, digits, tmp_path):
    saved = {"zero": paired.explain(digits[0], "SplitCAM", streams=["h"])}
    path = write_page(paired, tmp_path / "v.html", {}, explanations=saved)
    assert "zero: SplitCAM, why 0?" in path.read_text(encoding="utf-8")


def test_an_explanation_of_other_weights_is_refused(digits, tmp_path, paired):
    other = load("mnist_inverted").explain(digits[0])
    with pytest.raises(DataError, match="zero: explains other weights, of mnist_inverted"):
        write_page(paired, tmp_path / "v.html", {}, explanations={"zero": other})
    assert not [*tmp_path.iterdir()]


@pytest.mark.torture("an explanation whose map is not finite", "it is refused by its name")
@pytest.mark.parametrize("broken", ["maps", "logits"])
def test_what_is_not_finite_is_refused(broken, digits, tmp_path, paired):
    good = paired.explain(digits[0], streams=["g"])
    bad = {
        "maps": {"maps": {"g": torch.full((1, 28, 28), torch.nan)}},
        "logits": {"logits": torch.full((10,), torch.inf)},
    }
    saved = {"zero": replace(good, **bad[broken])}
    with pytest.raises(DataError, match=r"zero: .*not finite"):
        write_page(paired, tmp_path / "v.html", {}, explanations=saved)


@pytest.mark.torture("a page of names with HTML, scripts, templates", "they are only text")
def test_hostile_names_are_only_text(tmp_path, visit):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)).eval()
    network = Network(HOSTILE, net, (HOSTILE, "b"), (1, 8, 8), None, None, None, {})
    opened = visit(write_page(network, tmp_path / "v.html", {HOSTILE: torch.rand(1, 8, 8)}))
    assert opened.title().startswith(HOSTILE)
    assert HOSTILE in opened.locator("#bars").inner_text()
    assert opened.locator("#images button").get_attribute("title") == HOSTILE


def test_the_policy_forbids_the_network(page):
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert "wasm" not in policy
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_what_cannot_be_shown_is_refused(tmp_path, paired):
    x = torch.rand(1, 28, 28)
    with pytest.raises(DataError, match="at least one"):
        write_page(paired, tmp_path / "v.html", {})
    with pytest.raises(OptionError, match="top is 0"):
        write_page(paired, tmp_path / "v.html", {"x": x}, top=0)
    with pytest.raises(OptionError, match="alpha"):
        write_page(paired, tmp_path / "v.html", {"x": x}, alphas=[0.4])
    with pytest.raises(UnknownNameError, match="GradCAM"):
        write_page(paired, tmp_path / "v.html", {"x": x}, ["GradCAM"])
    assert not [*tmp_path.iterdir()]


def test_a_finger_draws_on_a_phone(live, visit):
    opened = visit(live, viewport=PHONE, has_touch=True)
    opened.locator("body[data-live=ready]").wait_for(timeout=120_000)
    assert opened.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    opened.get_by_role("button", name="Clear").tap()
    box = opened.locator("#input").bounding_box()
    opened.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.locator("body[data-milliseconds]").wait_for()
    assert max(opened.evaluate("[...live.last.pixels]")) > 0.5
    assert opened.locator("#name").inner_text() == "yours"


@pytest.fixture(scope="module")
def live(tmp_path_factory, paired, digits):
    try:
        runtime = browser_runtime()
    except MissingPackageError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("live") / "live.html"
    return write_page(paired, path, {"a zero": digits[0]}, runtime=runtime)


def test_a_digit_that_is_drawn_is_classified_and_explained(live, visit, paired):
    assert live.stat().st_size < 20 * 2**20
    opened = visit(live)
    opened.locator("body[data-live=ready]").wait_for(timeout=120_000)
    opened.get_by_role("button", name="Clear").click()
    box = opened.get_by_label("The image", exact=True).bounding_box()
    corners = [(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]  # of a seven
    for place, (right, down) in enumerate(corners):
        x, y = box["x"] + right * box["width"], box["y"] + down * box["height"]
        opened.mouse.move(x, y, steps=8)
        if place == 0:
            opened.mouse.down()
    opened.mouse.up()
    opened.locator("body[data-milliseconds]").wait_for()
    pixels = shown(opened, "7/-1/g-h")
    red = pixels[..., 0] - pixels[..., 1]
    assert red.max() > 60
    logits, maps = opened.evaluate("[[...live.last.logits], [...live.last.maps['g-h']]]")
    x = torch.tensor(opened.evaluate("[...live.last.pixels]")).view(1, 1, 28, 28)
    assert torch.allclose(torch.tensor(logits), paired.model(x)[0], atol=1e-3)
    expected = SplitLRP(paired.model, stream="g-h")(x, 7).flatten()
    assert torch.allclose(torch.tensor(maps), expected, atol=float(expected.abs().max()) * 1e-3)
    assert opened.locator("#method option").all_inner_texts() == ["SplitLRP"]  # that of the graph
    for index in (9, 0):
        opened.locator("#bars button").nth(index).click()
        shown(opened, f"{index}/-1/g-h")
    opened.get_by_label("and not").select_option("7")
    opened.get_by_label("g: evidence").check()
    shown(opened, "0/7/g")
    maps = opened.evaluate("[...shown.map]")
    expected = SplitLRP(paired.model, stream="g")(x, Against(0, 7)).flatten()
    assert torch.allclose(torch.tensor(maps), expected, atol=float(expected.abs().max()) * 2e-3)


def test_a_picture_that_is_put_there_is_explained(live, visit, digits, tmp_path):
    from torchvision.transforms.functional import to_pil_image

    to_pil_image(digits[1]).resize((280, 280)).save(tmp_path / "one.png")
    opened = visit(live)
    opened.locator("body[data-live=ready]").wait_for(timeout=120_000)
    opened.locator("#file").set_input_files(tmp_path / "one.png")
    opened.locator("body[data-milliseconds]").wait_for()
    assert (shown(opened, "1/-1/g-h") < 250).any()
    (tmp_path / "no.png").write_bytes(b"nothing")
    opened.locator("#file").set_input_files(tmp_path / "no.png")
    opened.get_by_text("no.png: not a picture").wait_for()
