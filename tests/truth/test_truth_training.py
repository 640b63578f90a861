import pytest
import torch
from torch import nn

from dmn.errors import DataError, UnsupportedError
from dmn.models import PlainCNN
from dmn.truth.training import accuracy, fit, one_thread, predict


def halves(count, seed):
    """Return images whose class is the brighter half."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    labels = torch.arange(count) % 2
    images[labels == 0, :, :, :4] += 0.5
    images[labels == 1, :, :, 4:] += 0.5
    return images, labels


def network():
    return PlainCNN(1, widths=(4, 8), grid=2, num_classes=2)


def train(seed=0, epochs=20):
    return fit(network(), *halves(200, 1), epochs, seed)


def same(first, second):
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.fixture(scope="module")
def trained():
    return train()


def test_it_learns_and_classifies_images_it_has_not_seen(trained):
    images, labels = halves(300, 2)
    assert accuracy(trained, images, labels) > 0.97
    assert accuracy(trained, images, 1 - labels) < 0.03
    assert torch.equal(predict(trained, images), trained(images).argmax(1))


def test_it_ends_in_eval_mode_without_gradients(trained):
    assert not any(module.training for module in trained.modules())
    assert not any(weight.requires_grad for weight in trained.parameters())
    assert all(weight.grad is None for weight in trained.parameters())


def test_the_bits_do_not_depend_on_threads_or_on_what_was_drawn_before(trained):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        torch.manual_seed(99)
        with torch.no_grad():
            assert same(train(), trained)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_another_seed_gives_another_network(trained):
    assert not same(train(seed=1), trained)


def test_the_random_state_and_the_threads_are_restored(trained):
    model, threads = network(), torch.get_num_threads()
    state = torch.get_rng_state()
    fit(model, *halves(20, 1), epochs=1)
    predict(trained, halves(4, 3)[0])
    with pytest.raises(RuntimeError, match="shape"), one_thread(5):
        torch.rand(3).view(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_fewer_images_than_a_batch_are_one_batch():
    model = fit(network(), *halves(10, 1), epochs=2)
    assert predict(model, halves(3, 2)[0]).shape == (3,)


@pytest.mark.parametrize("count", [0, 3])
def test_labels_are_one_per_image(count):
    with pytest.raises(DataError, match=f"{count} images and 2 labels"):
        fit(network(), torch.rand(count, 1, 8, 8), torch.tensor([0, 1]), epochs=1)


def test_weights_that_cannot_be_drawn_are_named():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(UnsupportedError, match=r"1 has weights.*Scale"):
        fit(nn.Sequential(nn.Flatten(), Scale()), *halves(4, 1), epochs=1)
