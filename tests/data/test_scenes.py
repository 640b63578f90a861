"""Scenes: the digit alone tells the class, its pixels are known, and all follows from a seed."""

import pytest
import torch
import torch.nn.functional as F

from dmn.data import MNIST, Scenes
from dmn.data.scenes import BRIGHTEST, PHOTOGRAPHS, SceneSet, _photographs


@pytest.fixture(scope="module")
def scenes():
    data = Scenes()
    data.setup("fit")
    return data


def drawn(part, keys):
    return part.__getitems__(keys)


def test_images_masks_and_classes(scenes):
    digits = MNIST(augment=False)
    digits.setup("fit")
    for part, plain in (("validation", digits.validation), ("test", digits.test)):
        batch = drawn(getattr(scenes, part), list(range(20)))
        assert batch.image.shape == (20, 3, 64, 64)
        assert batch.mask.shape == (20, 1, 64, 64)
        assert 0 <= batch.image.min() < 0.05
        assert 0.9 < batch.image.max() <= 1
        assert set(batch.mask.unique().tolist()) == {0.0, 1.0}
        assert batch.mask.flatten(1).sum(1).min() > 30  # every digit is in the picture
        assert batch.label.equal(plain.labels[:20])


def test_the_mask_is_where_the_digit_is(scenes):
    """Scenes of the same draws and another digit differ on the strokes of either, nowhere else."""
    digits = scenes.test.digits
    other = type(digits)(digits.images.flip(0), digits.labels.flip(0))
    one, two = (drawn(SceneSet(d, "test", 64, 3, 0), list(range(8))) for d in (digits, other))
    differs = (one.image - two.image).abs().amax(dim=1, keepdim=True) > 0.35
    assert differs.any()
    assert (differs <= (one.mask + two.mask).clamp(max=1).bool()).all()


def test_distractors_do_not_depend_on_the_class(scenes):
    """Without digits what is left is the same for every class: it carries no evidence."""
    digits = scenes.test.digits
    blank = type(digits)(torch.zeros_like(digits.images), digits.labels)
    relabelled = type(digits)(blank.images, (digits.labels + 1) % 10)
    one, two = (drawn(SceneSet(d, "test", 64, 3, 0), [0, 1, 2]) for d in (blank, relabelled))
    assert one.image.equal(two.image)
    without = drawn(SceneSet(blank, "test", 64, 0, 0), [0, 1, 2])
    assert not without.image.equal(one.image)
    assert without.image.max() <= 0.5  # photographs are dimmed


def test_scenes_follow_from_the_seed_alone():
    one, two, other = Scenes(), Scenes(), Scenes(seed=1)
    for data in (one, two, other):
        data.setup("fit")
    keys = [(3, 5), (3, 1)]
    first = drawn(one.train, keys)
    drawn(two.train, [(0, 0), (0, 9)])
    again = drawn(two.train, keys)
    assert first.image.equal(again.image)
    assert first.mask.equal(again.mask)
    assert not first.image.equal(drawn(other.train, keys).image)
    assert not first.image.equal(drawn(one.train, [(4, 5), (4, 1)]).image)  # each epoch anew
    single = drawn(one.train, [(3, 1)])
    assert single.image[0].equal(first.image[1])  # whoever else is in the batch


def test_photographs_are_disjoint_and_there():
    every = [name for names in PHOTOGRAPHS.values() for name in names]
    assert len(set(every)) == len(every)
    data = Scenes(size=32, distractors=0)
    data.setup("fit")
    for part in PHOTOGRAPHS:
        assert drawn(getattr(data, part), list(range(4))).image.shape == (4, 3, 32, 32)


def small(photograph):
    """Return what a photograph has in common with copies of it of another size."""
    grey = F.adaptive_avg_pool2d(photograph.mean(dim=0)[None], 16).flatten()
    return (grey - grey.mean()) / grey.std()


def test_no_photograph_of_one_part_is_in_another_under_another_name():
    every = [(part, small(it)) for part in PHOTOGRAPHS for it in _photographs(part)]
    for part, one in every:
        for other, two in every:
            assert part == other or (one * two).mean() < 0.9


@pytest.mark.parametrize("varied", [False, True])
def test_scenes_are_drawn_on_all_photographs_of_their_own_part_and_on_no_others(
    varied, monkeypatch
):
    """Photographs of one shade each, which is seen around the digits."""
    counts = {part: len(names) for part, names in PHOTOGRAPHS.items()}
    first = {"train": 0.1, "validation": 0.4, "test": 0.7}
    shades = {part: [first[part] + 0.02 * i for i in range(counts[part])] for part in counts}
    monkeypatch.setattr(
        "dmn.data.scenes._photographs",
        lambda part: [torch.full((3, 60, 80), shade) for shade in shades[part]],
    )
    data = Scenes(size=32, distractors=0, varied=varied)
    data.setup("fit")
    for part in PHOTOGRAPHS:
        if varied and part == "train":
            continue  # whose shades are varied
        corners = drawn(getattr(data, part), list(range(150))).image[:, :, 0, 0]
        seen = {round(value, 4) for value in (corners / BRIGHTEST).flatten().tolist()}
        assert seen == {round(shade, 4) for shade in shades[part]}


def test_loaders_give_batches():
    data = Scenes(size=32, batch_size=4)
    data.setup("fit")
    assert next(iter(data.train_dataloader())).image.shape == (4, 3, 32, 32)
    batch = next(iter(data.val_dataloader()))
    assert batch.label[:10].tolist() == list(range(10))  # classes take turns


def test_varied_photographs_change_the_training_scenes_only_and_not_their_digits():
    plain, varied = Scenes(), Scenes(varied=True)
    for module in (plain, varied):
        module.setup("fit")
    keys = [(3, index) for index in range(40)]
    one, other = (module.train.__getitems__(keys) for module in (plain, varied))
    assert (one.image != other.image).flatten(1).any(dim=1).all()
    assert torch.equal(other.image, varied.train.__getitems__(keys).image)
    assert other.image.min() >= 0
    assert other.image.max() <= 1
    for part in ("validation", "test"):
        a, b = (getattr(module, part).__getitems__(list(range(8))) for module in (plain, varied))
        assert torch.equal(a.image, b.image)
