"""Train small networks on the CPU, with the same bits wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dmn.errors import DataError, UnsupportedError
from dmn.nn import eval_mode

Model = TypeVar("Model", bound=nn.Module)

AT_ONCE = 256  # images classified at once


@contextmanager
def one_thread(seed: int) -> Iterator[None]:
    """Compute in one thread with seeded random numbers; both are restored afterwards.

    The order of sums, and with it their last bits, depends on the number of threads.

    Args:
        seed: For the random numbers of the CPU, at least 0.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def fit(
    model: Model,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    seed: int = 0,
    *,
    learning_rate: float = 1e-2,
    weight_decay: float = 1e-2,
    batch_size: int = 64,
) -> Model:
    """Train a classifier by AdamW and one cycle of the learning rate.

    The weights are drawn from the seed, so that those it comes with do not matter.

    Args:
        model: From images to logits (B, K), on the CPU. It is trained in place.
        images: (N, C, H, W), on the CPU.
        labels: Their classes, (N,).
        epochs: How often each image is seen. The last, incomplete batch of an epoch is left out.
        seed: For the weights and the order of the images, at least 0.
        learning_rate: The largest.
        weight_decay: Decoupled, as AdamW has it.
        batch_size: Images per step.

    Returns:
        The model, in eval mode, its parameters without gradient.

    Raises:
        DataError: if there are no images, or not one label per image.
        UnsupportedError: if weights belong to a module without `reset_parameters`; names it.

    Source: Loshchilov & Hutter 2019, "Decoupled weight decay regularization"; Smith & Topin 2018,
        "Super-convergence".
    """
    if not len(images) or len(images) != len(labels):
        raise DataError(f"{len(images)} images and {len(labels)} labels; give one label per image")
    size = min(batch_size, len(images))
    steps = len(images) // size
    with one_thread(seed), torch.enable_grad():
        _draw_weights(model.train().requires_grad_())
        optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=epochs * steps
        )
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(images))[: steps * size], size):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images[rows]), labels[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the classes of images, (N,).

    Args:
        model: From images to logits (B, K).
        images: (N, C, H, W).
    """
    with one_thread(0), torch.no_grad(), eval_mode(model):
        return torch.cat([model(x).argmax(dim=1) for x in torch.split(images, AT_ONCE)])


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that are classified as their labels say.

    Args:
        model: From images to logits (B, K).
        images: (N, C, H, W).
        labels: Their classes, (N,).
    """
    return (predict(model, images) == labels).double().mean().item()


def _draw_weights(model: nn.Module) -> None:
    for name, module in model.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            raise UnsupportedError(
                f"{name or 'the network'} has weights of its own that cannot be drawn anew; give "
                f"{type(module).__name__} a method reset_parameters"
            )
