import json

import numpy as np
import pytest
import torch
from PIL import Image

from dmn.data import ImageBatch, ImageNetS
from dmn.data.imagenet_s import MEAN, STD
from dmn.errors import DataError, DmnError

WNIDS = [f"n{10_000_000 + 7 * place}" for place in range(50)]
WIDTH, HEIGHT = 40, 30
OBJECT = (slice(10, 20), slice(15, 25))  # rows, columns


def save_mask(path, ids):
    """Write class ids the published way: R + 256 G."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], axis=-1)
    Image.fromarray(channels.astype(np.uint8)).save(path)


def mask_ids(place):
    """The object, another class's pixels beside it, and a row left open."""
    ids = np.zeros((HEIGHT, WIDTH), dtype=int)
    ids[:, :5] = 1 + (place + 1) % 50
    ids[5] = 1000
    ids[OBJECT] = place + 1
    return ids


def publish(root, counts, masks=("validation", "test")):
    """Write the folders of ImageNet-S-50: white objects on black."""
    base = root / "ImageNetS50"
    for part, count in counts.items():
        for place, wnid in enumerate(WNIDS):
            (base / part / wnid).mkdir(parents=True)
            for number in range(count):
                ids, name = mask_ids(place), f"{part}_{number:08}"
                pixels = np.where(ids == place + 1, 255, 0).astype(np.uint8)
                picture = Image.fromarray(pixels)
                mode = ("L", "RGB", "CMYK")[number % 3]
                picture.convert("RGB").convert(mode).save(
                    base / part / wnid / f"{name}.JPEG", quality=95
                )
                if part in masks:
                    save_mask(base / f"{part}-segmentation" / wnid / f"{name}.png", ids)
    return base


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    publish(folder, {"train": 1, "validation": 3, "test": 1})
    return folder


def module(root, stage="test", **options):
    data = ImageNetS(str(root), **{"size": 28, "num_workers": 0, **options})
    data.setup(stage)
    return data


def everything(images):
    return images.__getitems__(list(range(len(images))))


def test_masks_are_the_pixels_of_the_image_s_own_class_cut_as_the_image_is(root):
    batch = everything(module(root, mean=None, std=None).validation)
    assert isinstance(batch, ImageBatch)
    assert batch.image.shape == (150, 3, 28, 28)
    assert batch.mask.shape == (150, 1, 28, 28)
    assert set(batch.mask.unique().tolist()) == {0, 1}
    agree = ((batch.image > 0.5).all(1, keepdim=True) == batch.mask.bool()).float().mean((1, 2, 3))
    assert agree.min() > 0.95  # neither the other class's pixels nor those left open
    share = batch.mask.mean((1, 2, 3))
    assert torch.allclose(share, torch.tensor(100 * (32 / 30) ** 2 / 28**2), atol=0.02)


def test_ids_beyond_one_byte_are_read(tmp_path):
    base = publish(tmp_path, {"validation": 2})
    place, path = 0, base / "validation-segmentation" / WNIDS[0] / "validation_00000000.png"
    ids = mask_ids(place)
    ids[OBJECT] = 1 + 256  # not 1
    save_mask(path, ids)
    assert everything(module(tmp_path).validation).mask[0].sum() == 0


def test_validation_chooses_and_test_scores_classes_taking_turns(root):
    data = module(root)
    assert [len(part) for part in (data.validation, data.test)] == [150, 50]
    labels = torch.cat([batch.label for batch in data.val_dataloader()])
    assert labels.tolist() == list(range(50)) * 3
    assert data.classes == tuple(WNIDS)


def test_without_published_test_masks_validation_is_divided(root, tmp_path):
    publish(tmp_path, {"validation": 3, "test": 1}, masks=("validation",))
    for data in (module(tmp_path), module(root, test_on="validation")):
        assert [len(part) for part in (data.validation, data.test)] == [50, 100]
        chosen, scored = (
            {path for path, _ in part.samples} for part in (data.validation, data.test)
        )
        assert not chosen & scored
        assert [label for _, label in data.validation.samples] == list(range(50))
    with pytest.raises(DataError, match=r"test-segmentation .*set data\.test_on to val"):
        module(tmp_path, test_on="test")


def test_training_needs_no_masks_and_evaluation_no_training_images(root, tmp_path):
    data = module(root, "fit", batch_size=8)
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, ImageBatch)
    assert batch.mask is None
    assert batch.image.shape == (8, 3, 28, 28)
    publish(tmp_path, {"validation": 2})
    module(tmp_path)
    with pytest.raises(DataError, match=r"train is not there; .*ImageNetS50"):
        module(tmp_path, "fit")


def test_images_are_normalised_as_torchvision_does(root):
    plain = everything(module(root, mean=None, std=None).test).image
    normal = everything(module(root).test).image
    assert 0 <= plain.min() < 0.1
    assert 0.9 < plain.max() <= 1
    mean, std = (torch.tensor(it).view(3, 1, 1) for it in (MEAN, STD))
    assert torch.allclose(normal * std + mean, plain, atol=1e-6)
    with pytest.raises(DmnError, match="give both"):
        ImageNetS(str(root), mean=None)


def test_the_evaluation_view_is_torchvision_s(root):
    from torchvision.models import ResNet18_Weights

    data = module(root, size=224)
    path, _ = data.test.samples[0]
    with Image.open(path) as picture:
        expected = ResNet18_Weights.DEFAULT.transforms()(picture.convert("RGB"))
    assert torch.allclose(data.test.__getitems__([0]).image[0], expected, atol=1e-6)


@pytest.mark.parametrize("form", ["json", "names", "ids"])
def test_labels_are_a_network_s_outputs_where_a_class_index_says_them(root, tmp_path, form):
    known = sorted([*WNIDS, *(f"n0{1_000_000 + number}" for number in range(950))])
    path = tmp_path / f"index.{'json' if form == 'json' else 'txt'}"
    if form == "json":
        content = {str(output): [wnid, f"name {wnid}"] for output, wnid in enumerate(known)}
        path.write_text(json.dumps(dict(reversed(content.items()))))
    else:
        lines = [f"{wnid} name {wnid}, other name" if form == "names" else wnid for wnid in known]
        path.write_text("\n".join(lines) + "\n")
    data = module(root, class_index=str(path))
    assert [label for _, label in data.test.samples] == [known.index(wnid) for wnid in WNIDS]
    assert len(data.classes) == 1000
    assert data.classes[known.index(WNIDS[3])] == ("name " if form != "ids" else "") + WNIDS[3]
    assert everything(data.test).mask.flatten(1).amax(1).min() == 1  # ids are not labels


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("index.json", '{"0": ["n01440764", "tench"]}', r"lacks n10000000"),
        ("index.json", "[", r"index\.json: cannot be read as a class index"),
        ("index.json", '{"1": ["n01440764", "tench"]}', r"cannot be read as a class index"),
        ("index.txt", "tench\n", r"'tench' is no WordNet id"),
        (None, "", r"cannot be read as a class index \(FileNotFoundError"),
    ],
)
def test_a_class_index_that_does_not_serve_is_named(root, tmp_path, name, text, fault):
    if name:
        (tmp_path / name).write_text(text)
    with pytest.raises(DmnError, match=fault):
        module(root, class_index=str(tmp_path / (name or "none.json")))


def test_what_is_not_as_published_is_named(tmp_path):
    with pytest.raises(DmnError, match=r"data\.subset is 51; choose 50, 300 or 919"):
        ImageNetS(str(tmp_path), subset=51)
    with pytest.raises(DataError, match=r"ImageNetS300.validation is not there"):
        module(tmp_path, subset=300)
    base = publish(tmp_path, {"validation": 2})
    masks = base / "validation-segmentation" / WNIDS[1]
    save_mask(masks / "validation_00000000.png", mask_ids(1)[1:])
    data = module(tmp_path)
    with pytest.raises(DmnError, match=r"validation_00000000.JPEG is 40 x 30 .*its mask 40 x 29"):
        everything(data.validation)
    (masks / "validation_00000000.png").write_bytes(b"no image")
    with pytest.raises(DmnError, match=r"validation_00000000\.png: cannot be read as an image"):
        everything(data.validation)
    (masks / "validation_00000001.png").unlink()
    with pytest.raises(DmnError, match=r"validation_00000001\.png: there is no such mask"):
        module(tmp_path)
    (base / "validation" / "n99999999").mkdir()
    with pytest.raises(DmnError, match="has 51 classes instead of 50"):
        module(tmp_path)


@pytest.mark.torture(
    "ImageNet-S: a photograph with an EXIF tag, and masks that no image needs",
    "it is taken as it is stored, as its mask is; the others are left alone",
)
def test_exif_tags_are_not_heeded_and_other_masks_neither(tmp_path):
    base = publish(tmp_path, {"validation": 2})
    name, exif = f"{WNIDS[0]}/validation_00000000", Image.Exif()
    exif[0x0112] = 6
    path = base / "validation" / f"{name}.JPEG"
    with Image.open(path) as picture:
        picture.load()
    picture.save(path)
    before = everything(module(tmp_path).validation).image[0]
    picture.save(path, exif=exif)
    save_mask(base / "validation-segmentation" / f"{name}_extra.png", mask_ids(0))
    batch = everything(module(tmp_path).validation)
    assert torch.equal(batch.image[0], before)
    assert batch.mask[0].sum() > 0


@pytest.mark.torture("ImageNet-S: a class folder without images", "refused by its name")
def test_classes_without_images_are_named(tmp_path):
    base = publish(tmp_path, {"validation": 2})
    for path in (base / "validation" / WNIDS[7]).iterdir():
        path.unlink()
    with pytest.raises(DmnError, match=rf"no image in .*{WNIDS[7]}; add some"):
        module(tmp_path)
