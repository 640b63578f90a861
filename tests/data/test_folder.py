import multiprocessing
from pathlib import Path

import effort
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dmn.data import Folder, ImageBatch, files
from dmn.data.files import copies, divide, interleave_classes
from dmn.data.images import ImageDataset
from dmn.data.sampling import EpochSampler
from dmn.errors import DataError, DmnError, OptionError, UnreadableImageError
from dmn.io.pictures import picture_suffixes

PARTS = ("train", "validation", "test")


def save(path, mode="RGB", seed=0, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def fill(folder, counts, suffix=".png"):
    for place, (name, count) in enumerate(counts.items()):
        for number in range(count):
            save(folder / name / f"{number:03}{suffix}", seed=100 * place + number)


def module(root, **options):
    data = Folder(str(root), **{"size": 24, "num_workers": 0, "batch_size": 4, **options})
    data.setup("fit")
    return data


def paths(images):
    return {path for path, _ in images.samples}


def everything(images):
    return images.__getitems__(list(range(len(images))))


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    root = tmp_path_factory.mktemp("flat")
    fill(root, {"cat": 10, "dog": 20})
    return root


def test_a_single_tree_is_divided_by_the_same_shares_of_each_class(flat):
    data = module(flat, validation_share=0.1, test_share=0.2)
    assert data.classes == ("cat", "dog")
    parts = [data.train, data.validation, data.test]
    counts = [[[label for _, label in part.samples].count(it) for it in (0, 1)] for part in parts]
    assert counts == [[7, 14], [1, 2], [2, 4]]
    assert len(set.union(*map(paths, parts))) == 30
    assert [label for _, label in data.test.samples] == [0, 1, 0, 1, 1, 1]


def test_the_division_follows_from_the_seed(flat):
    assert paths(module(flat).test) == paths(module(flat).test)
    assert paths(module(flat).test) != paths(module(flat, seed=1).test)


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_folders_of_their_own_are_used_and_the_rest_is_drawn_from_training(tmp_path, name):
    fill(tmp_path / "train", {"a": 5, "b": 5})
    fill(tmp_path / name, {"a": 2, "b": 1})
    data = module(tmp_path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [8, 3, 2]
    assert all(f"/{name}/" in path for path in paths(data.validation))
    fill(tmp_path / "test", {"b": 4})
    data = module(tmp_path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [10, 3, 4]
    assert {label for _, label in data.test.samples} == {1}


@pytest.mark.parametrize(
    "names",
    [("TRAIN", "Val", "Test"), ("Training", "VALIDATION", "Testing"), ("train", "Valid", "TEST")],
)
def test_folders_of_parts_are_found_in_upper_and_lower_case(tmp_path, names):
    for name, count in zip(names, (4, 2, 1), strict=True):
        fill(tmp_path / name, {"a": count, "b": count})
    data = module(tmp_path)
    assert data.classes == ("a", "b")
    for part, name, count in zip(
        (data.train, data.validation, data.test), names, (8, 4, 2), strict=True
    ):
        assert len(part) == count
        assert all(path.startswith(f"{tmp_path}/{name}/") for path in paths(part))


@pytest.mark.parametrize("other", ["test", "Unlabelled", "labels/2024"])
def test_folders_that_are_no_part_are_told(tmp_path, other, caplog):
    for part in ("train", "val"):
        fill(tmp_path / part, {"a": 10, "b": 10})
    (tmp_path / other).mkdir(parents=True)
    save(tmp_path / other / "0.png")
    assert len(module(tmp_path).validation) == 20
    name, *_ = other.split("/")
    (message,) = caplog.messages
    assert f"not used: {name}; a part of the data is called train, val or test" in message


@pytest.mark.parametrize("training", ["", "Train"])
def test_pictures_beside_the_classes_are_told(tmp_path, training, caplog):
    fill(tmp_path / training, {"a": 10, "b": 10})
    module(tmp_path)
    assert not caplog.messages
    for name in ("x.png", "y.JPG", ".z.png", "notes.txt"):
        (tmp_path / training / name).touch()
    module(tmp_path, size=None)
    (message,) = caplog.messages
    assert message.endswith("not used: 2 pictures beside the folders of classes")


@pytest.mark.parametrize("suffix", sorted(picture_suffixes()))
def test_what_can_be_read_is_listed_by_its_suffix(tmp_path, suffix):
    for number in range(4):
        (tmp_path / "a").mkdir(exist_ok=True)
        name = f"{number}{suffix.upper() if number % 2 else suffix}"
        (tmp_path / "a" / name).touch()
        (tmp_path / "a" / f"{number}{suffix}.txt").touch()
    assert len(files.list_images(tmp_path, ["a"], True)) == 4


@pytest.mark.parametrize("suffix", [".gif", ".avif", ".jfif", ".jp2", ".webp", ".tif"])
def test_pictures_of_other_kinds_than_png_are_used(tmp_path, suffix):
    names = [f"{number}{suffix if number % 2 else '.png'}" for number in range(10)]
    for number, name in enumerate(names):
        save(tmp_path / "a" / name, seed=number)
    data = module(tmp_path, size=None)
    parts = [data.train, data.validation, data.test]
    assert {Path(path).name for path in set.union(*map(paths, parts))} == {*names}
    assert all(everything(part).image.shape[1:] == (3, 32, 32) for part in parts)


def test_what_is_left_out_by_its_suffix_is_counted(tmp_path, caplog):
    fill(tmp_path, {"a": 10, "b": 10})
    for name in ("a/0.HEIC", "a/1.heic", "b/Thumbs.db", "b/README", "b/.hidden"):
        (tmp_path / name).touch()
    data = module(tmp_path, size=None)
    assert len(data.train) + len(data.validation) + len(data.test) == 20
    (message,) = caplog.messages
    assert message.endswith("left out: 1 .db, 2 .heic, 1 without a suffix")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "0.heic").touch()
    with pytest.raises(DataError, match=r"no image in .*/c \(only .*\.heic"):
        module(tmp_path)


@pytest.mark.parametrize(
    ("mode", "sizes", "size", "channels"),
    [
        ("L", [(40, 36)], 36, 1),
        ("RGBA", [(40, 36)], 36, 3),
        ("P", [(50, 60), (40, 80), (90, 45)], 45, 3),
        ("1", [(6, 5)], 32, 1),
        ("LA", [(300, 400)], 224, 1),
    ],
)
def test_size_and_channels_follow_from_the_images(tmp_path, mode, sizes, size, channels):
    for number in range(12):
        save(tmp_path / "a" / f"{number}.png", mode, number, sizes[number % len(sizes)])
    data = module(tmp_path, size=None)
    assert (data.size, data.channels) == (size, channels)
    assert everything(data.validation).image.shape[1:] == (channels, size, size)


def test_grey_and_coloured_images_together_are_coloured(tmp_path):
    fill(tmp_path, {"a": 10})
    for number in range(10):
        save(tmp_path / "b" / f"{number}.png", "L")
    assert module(tmp_path).channels == 3
    assert everything(module(tmp_path, channels=1).train).image.shape[1] == 1


def test_a_class_of_one_image_is_trained_with(tmp_path):
    fill(tmp_path, {"a": 10, "b": 1, "c": 10})
    data = module(tmp_path)
    assert [label for _, label in data.train.samples].count(1) == 1


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_images_of_many_classes_leave_some_for_every_part(tmp_path, count):
    fill(tmp_path, {f"{number:02}": count for number in range(30)})
    data = module(tmp_path)
    assert min(map(len, (data.validation, data.test))) > 0
    assert {label for _, label in data.train.samples} == set(range(30))
    assert len(set.union(*(paths(getattr(data, part)) for part in PARTS))) == 30 * count


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, {"plane": 10, "test": 10, "train": 10})
    data = module(tmp_path)
    assert data.classes == ("plane", "test", "train")
    assert len(data.train) == 21


@pytest.mark.filterwarnings("error")
def test_any_mode_is_read_as_rgb(tmp_path):
    modes = ["L", "RGB", "RGBA", "P", "1", "LA"]
    for number, mode in enumerate(modes):
        save(tmp_path / "train" / "a" / f"{number}.png", mode)
    save(tmp_path / "train" / "a" / "6.jpg", "CMYK")
    palette = Image.new("P", (40, 30))
    palette.save(tmp_path / "train" / "a" / "7.png", transparency=bytes(range(256)))
    fill(tmp_path / "val", {"a": 1})
    data = module(tmp_path, test_share=0.2)
    for images in (data.train, data.test):
        batch = everything(images)
        assert isinstance(batch, ImageBatch)
        assert batch.mask is None
        assert batch.image.shape[1:] == (3, 24, 24)
        assert 0 <= batch.image.min() <= batch.image.max() <= 1


def test_masks_mirror_the_images_and_what_is_not_black_is_evidence(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    fill(images / "train", {"a": 4})
    fill(images / "val", {"a": 4}, suffix=".jpg")
    fill(images / "test", {"a": 1})
    evidence = np.zeros((30, 40), dtype=np.uint8)
    evidence[:, 20:] = 3
    kinds = [
        Image.fromarray(evidence),
        Image.fromarray(evidence).convert("RGB"),
        Image.merge("LA", [Image.fromarray(evidence), Image.new("L", (40, 30), 255)]),
        Image.fromarray(evidence > 0),
    ]
    for part in ("val", "test"):
        (masks / part / "a").mkdir(parents=True)
    for number, mask in enumerate(kinds):
        mask.save(masks / "val" / "a" / f"{number:03}.png")
    with pytest.raises(DmnError, match=r"test/a/000\.png: there is no such mask"):
        module(images, masks=str(masks))
    kinds[0].save(masks / "test" / "a" / "000.png")
    data = module(images, masks=str(masks))
    batch = next(iter(data.val_dataloader()))
    assert isinstance(batch, ImageBatch)
    expected = torch.zeros(24, 24)
    expected[:, 12:] = 1
    assert all(torch.equal(mask[0], expected) for mask in batch.mask)
    assert next(iter(data.train_dataloader())).mask is None


def test_augmentation_and_order_repeat_with_the_epoch_whatever_was_drawn_before(flat):
    def first(epoch, data):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return next(iter(loader))

    one, again, other = first(1, module(flat)), first(1, module(flat)), first(2, module(flat))
    assert torch.equal(one.image, again.image)
    assert torch.equal(one.label, again.label)
    assert not torch.equal(one.image, other.image)


def test_each_image_has_its_own_draw_whatever_batch_it_is_in(flat):
    train, state = module(flat).train, torch.get_rng_state()
    together = train.__getitems__([(3, index) for index in range(6)]).image
    assert torch.equal(torch.get_rng_state(), state)
    alone = [train.__getitems__([(3, index)]).image[0] for index in range(6)]
    assert torch.equal(together, torch.stack(alone))
    twins = ImageDataset([train.samples[0]] * 2, train.view, train.augment)
    assert not torch.equal(*twins.__getitems__([(3, 0), (3, 1)]).image)
    still = train.__getitems__(list(range(6))).image
    assert not torch.equal(together, still)
    assert torch.equal(module(flat, augment=False).train.__getitems__([(3, 2)]).image[0], still[2])


def test_workers_load_the_same_batches(flat, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    here, there = module(flat), module(flat, num_workers=1)
    for one, other in zip(here.train_dataloader(), there.train_dataloader(), strict=True):
        assert torch.equal(one.image, other.image)
    assert not multiprocessing.active_children()


def test_processes_share_the_images(flat):
    train = module(flat).train
    shares = [list(EpochSampler(train, 2, rank, seed=0)) for rank in range(2)]
    assert {index for share in shares for _, index in share} == set(range(len(train)))
    assert len(shares[0]) == len(shares[1]) <= len(train) // 2 + 1


def test_a_data_set_smaller_than_a_batch_still_trains(flat):
    assert len(module(flat, batch_size=99).train_dataloader()) == 1
    assert len(module(flat, batch_size=8).train_dataloader()) == 21 // 8


def test_a_run_trains_and_tests_on_it(flat, make_trainer):
    from torch import nn

    from dmn.train.task import ClassificationTask

    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 2))
    trainer = make_trainer(max_epochs=1)
    data = Folder(str(flat), size=24, num_workers=0, batch_size=7)
    task = ClassificationTask(net, num_classes=2)
    trainer.fit(task, datamodule=data)
    assert trainer.global_step == 3
    assert "test/acc" in trainer.test(task, datamodule=data, verbose=False)[0]


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.2)])
def test_shares_must_leave_something(flat, shares):
    with pytest.raises(DmnError, match="leave something to train with"):
        Folder(str(flat), validation_share=shares[0], test_share=shares[1])


def test_what_is_amiss_is_named(tmp_path):
    with pytest.raises(DataError, match=r"put images there as class/name\.jpg"):
        module(tmp_path / "none")
    fill(tmp_path / "val", {"a": 2})
    with pytest.raises(DataError, match="no classes to train with"):
        module(tmp_path)
    fill(tmp_path / "train", {"a": 2})
    with pytest.raises(DmnError, match="no images for test; add some, or change"):
        module(tmp_path)
    data = module(tmp_path, test_share=0.5)
    [(path, _)] = data.test.samples
    with open(path, "r+b") as file:
        file.truncate(60)
    with pytest.raises(DmnError, match=rf"{path}: cannot be read as an image"):
        everything(data.test)
    Image.new("I", (40, 30)).save(path, "TIFF")
    with pytest.raises(DmnError, match="8 or 16 bits a channel"):
        everything(data.test)
    fill(tmp_path / "val", {"b": 1})
    with pytest.raises(DmnError, match="no class is called b"):
        module(tmp_path, test_share=0.5)


@pytest.mark.torture(
    "a photograph turned by its EXIF tag, in a folder with masks", "it and its mask are upright"
)
def test_masks_are_of_pictures_as_they_are_seen(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    fill(images / "train", {"a": 5})
    white = np.zeros((30, 40, 3), np.uint8)
    white[:, 20:] = 255
    turned, exif = Image.fromarray(white).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    for part in ("val", "test"):
        for folder in (images, masks):
            (folder / part / "a").mkdir(parents=True)
        turned.save(images / part / "a" / "0.png", exif=exif)
    Image.fromarray(white).save(masks / "val" / "a" / "0.png")
    turned.save(masks / "test" / "a" / "0.png")
    data = module(images, masks=str(masks))
    batch = everything(data.validation)
    assert torch.equal(batch.mask[0, 0], batch.image[0, 0].round())
    with pytest.raises(DataError, match=r"0\.png is 40 x 30 pixels, its mask 30 x 40"):
        everything(data.test)


LAYOUTS = {
    "a link back to its own folder": "leads back to",
    "a class without images": r"no image in .*dog; add some, or remove the class",
    "an image that is a broken link": r"0\.png: cannot be read as an image",
    "a mask that is a directory": r"0\.png: there is no such mask",
    "a bomb for a mask": r"0\.png: cannot be read as an image \(Image size",
}


@pytest.mark.torture("a folder of images with {kind}", "refused by the name of what is amiss")
@pytest.mark.parametrize("kind", LAYOUTS)
def test_folders_that_are_amiss_are_named(kind, tmp_path, happened):
    root, masks = tmp_path / "images", tmp_path / "masks"
    for part in ("train", "val", "test"):
        fill(root / part, {"cat": 2, "dog": 0 if kind == "a class without images" else 2})
        (root / part / "dog").mkdir(exist_ok=True)
        (root / part / "stray").write_text("no class, as it is a file")
        fill(masks / part, {"cat": 2, "dog": 2, "more": 1})
    broken = Path("val/cat/000.png")
    if kind == "a link back to its own folder":
        for name in ("one", "two"):  # which os.walk alone would follow 2^40 times
            (root / "train" / "cat" / name).symlink_to(root / "train")
    elif kind == "an image that is a broken link":
        (root / broken).unlink()
        (root / broken).symlink_to("nowhere.png")
    elif "mask" in kind:
        (masks / broken).unlink()
        if kind == "a mask that is a directory":
            (masks / broken).mkdir()
        else:
            Image.new("1", (10_000, 10_000)).save(masks / broken)
    with pytest.raises(DmnError, match=LAYOUTS[kind]) as told:
        everything(module(root, masks=str(masks)).validation)
    happened(str(told.value).replace(str(tmp_path), ""))


HIDDEN = {
    "a file of macOS": "a/._000.png",
    "a hidden folder": "a/.ipynb_checkpoints/000-checkpoint.png",
    "a folder in a hidden folder": "b/.trash/old/1.png",
    "a folder of thumbnails": "a/@eaDir/000.png/thumb.png",
    "what macOS puts in archives": "__MACOSX/a/._000.png",
    "a hidden class": ".git/1.png",
}


@pytest.mark.torture("{what} lies among the images", "left out: it is no image, and no class")
@pytest.mark.parametrize("what", HIDDEN)
def test_what_is_hidden_is_no_image_and_no_class(what, tmp_path):
    root = tmp_path / ".cache" / "__MACOSX"  # above the root it does not matter
    fill(root, {"a": 10, "b": 10})
    before = module(root)
    save(root / HIDDEN[what], seed=7)
    (root / HIDDEN[what]).with_suffix(".jpg").write_bytes(b"no image")
    data = module(root)
    assert data.classes == ("a", "b")
    for part in ("train", "validation", "test"):
        assert getattr(data, part).samples == getattr(before, part).samples


def test_copies_are_not_looked_for_among_very_many_files(tmp_path, monkeypatch, caplog):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(b"the same")
    monkeypatch.setattr("dmn.data.files.SOUGHT", 2)
    assert copies([str(path) for path in paths]) == {}
    assert "copies are not looked for among 3 files" in caplog.text
    assert copies([str(path) for path in paths[:2]]) == {1: 0}


@pytest.mark.torture("a picture lies there {times} times", "all copies are in one part")
@pytest.mark.parametrize("times", [2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_copies_of_a_picture_stay_in_one_part(times, seed, tmp_path):
    fill(tmp_path, {"a": 10, "b": 20})
    for number in range(10):
        for time in range(1, times):
            name = tmp_path / "ab"[(number + time) % 2] / f"{number:03} ({time}).png"
            name.write_bytes((tmp_path / "a" / f"{number:03}.png").read_bytes())
    data = module(tmp_path, seed=seed)
    parts = [paths(getattr(data, part)) for part in ("train", "validation", "test")]
    held = [{Path(path).read_bytes() for path in part} for part in parts]
    assert sum(map(len, held)) == len(set.union(*held)) == 30
    assert sum(map(len, parts)) == 30 + 10 * (times - 1)
    assert data.test.samples == module(tmp_path, seed=seed).test.samples


def test_copies_are_found_by_content_and_few_files_are_read_whole(tmp_path, monkeypatch):
    end = bytes(files.END)
    contents = [
        b"a",
        b"b",
        b"a",
        b"",
        b"x" + end,
        b"y" + end,
        b"x" + end,
        b"",
        b"y" + end[1:],
        b"a",
    ]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    read, digest = [], files._digest
    monkeypatch.setattr(files, "_digest", lambda path: read.append(Path(path).name) or digest(path))
    listed = [str(tmp_path / str(number)) for number in range(len(contents))]
    for broken in ("broken", "too"):
        (tmp_path / broken).symlink_to("nowhere")
        listed.append(str(tmp_path / broken))
    assert copies(listed) == {2: 0, 9: 0, 7: 3, 6: 4}
    assert sorted(read) == ["0", "2", "3", "4", "5", "6", "7", "9"]  # alike in size and end
    assert copies([]) == {}


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(0, 99), st.data())
def test_what_follows_another_is_in_its_part_and_changes_nothing_else(labels, seed, data):
    samples = [(number, label) for number, label in enumerate(labels)]
    shares = [0.25, 0.25]
    parts = divide(samples, shares, seed)
    assert parts == divide(samples, shares, seed, {})
    if not samples:
        return
    follow = {
        len(samples) + extra: first
        for extra, first in enumerate(data.draw(st.lists(st.integers(0, len(samples) - 1))))
    }
    more = samples + [(index, data.draw(st.integers(0, 2))) for index in follow]
    parts = divide(more, shares, seed, follow)
    assert sorted(sample for part in parts for sample in part) == more
    for part in parts:
        held = {index for index, _ in part}
        assert [index for index, _ in part] == sorted(held)
        assert all((index in held) == (first in held) for index, first in follow.items())
    sizes = [sum(index not in follow for index, _ in part) for part in parts]
    assert sizes == [len(part) for part in divide(samples, shares, seed)]


def test_links_to_images_elsewhere_are_followed(flat, tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "some").symlink_to(flat / "cat")
    (tmp_path / "dog").symlink_to(flat / "dog")
    data = module(tmp_path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [21, 3, 6]


@pytest.mark.torture(
    "an unreadable image, met by a process that loads data", "its name, in one line"
)
def test_what_a_loading_process_meets_is_told_plainly(flat, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    fill(tmp_path, {"a": 10})
    data = module(tmp_path, num_workers=1)
    Path(data.validation.samples[0][0]).write_text("no image")
    with pytest.raises(UnreadableImageError) as told:
        list(data.val_dataloader())
    assert str(told.value).startswith(f"{data.validation.samples[0][0]}: cannot be read")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 0),
        ("num_workers", -1),
        ("seed", -1),
        ("size", 0),
        ("validation_share", float("nan")),
        ("std", (1.0, 0.0, 1.0)),
    ],
)
def test_options_that_cannot_be_are_named(option, value):
    options = {"mean": (0.0, 0.0, 0.0)} if option == "std" else {}
    with pytest.raises(OptionError, match=option):
        Folder("nowhere", **options, **{option: value})


def test_turns_balance_every_beginning():
    samples = [(number, label) for number, label in enumerate([2, 2, 2, 0, 0, 1])]
    assert [label for _, label in interleave_classes(samples)] == [0, 1, 2, 0, 2, 2]
    assert sorted(interleave_classes(samples)) == samples


def test_parts_of_a_division_are_disjoint_and_whole():
    samples = [(number, number % 3) for number in range(61)]
    parts = divide(samples, [0.25, 0.25], seed=4)
    assert sorted(sample for part in parts for sample in part) == samples
    for part, share in zip(parts, (0.25, 0.25, 0.5), strict=True):
        assert abs(len(part) - share * 61) <= 2


@settings(max_examples=effort.examples(30, 100))
@given(
    st.lists(st.integers(0, 9), max_size=80),
    st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4)),
    st.integers(0, 99),
)
def test_a_division_is_whole_and_leaves_no_part_empty(labels, shares, seed):
    samples = list(enumerate(labels))
    parts = divide(samples, shares, seed)
    assert sorted(sample for part in parts for sample in part) == samples
    several = len(samples) - len(set(labels))  # of each class one at least may have to stay
    if min(shares) * several >= 2:
        assert all(parts[:-1])
