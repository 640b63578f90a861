"""A classifier, and what is needed to use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dmn.errors import DataError, UnknownNameError
from dmn.explain.target import find_class
from dmn.hub.preprocess import per_channel
from dmn.io.text import one_line, size_text
from dmn.nn import Pair, is_pair, predict_logits
from dmn.split import SplitModel, as_pair


@dataclass(frozen=True)
class Network:
    """A classifier, and what is needed to use it; `dmn.load` gives one.

    Attributes:
        name: As it was asked for.
        model: The network, in eval mode, its parameters without gradient.
        classes: A name for each output, or none where they are not known.
        size: Channels, height and width of its images; None where that is not known.
        mean: Subtracted from each channel of images in [0, 1]; None for 0.
        std: What each channel is then divided by; None for 1.
        transform: From a picture (PIL, or a tensor (C, H, W), uint8 or in [0, 1]) to what the
            network takes, (C, H, W): grey if it has one channel, as small as `size` allows, cropped
            to the centre, normalised.
        card: What else is known of it.
        source: Where the weights are from: "shipped", "card" for a file with its card, "run" or
            "converted"; of torchvision's classifiers "random", the name of the weights, or of their
            file. Of networks of one's own the name of the file, or "own". Empty for a network that
            was not loaded.
    """

    name: str
    model: nn.Module = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    size: tuple[int, int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    transform: Callable[[Any], Tensor] = field(repr=False)
    card: dict[str, Any] = field(repr=False)
    source: str = ""
    _pairs: list[Pair] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def is_pair(self) -> bool:
        """Whether it is a difference g - h by itself, trained or split."""
        return is_pair(self.model)

    @property
    def is_split(self) -> bool:
        """Whether it is a network that was split after its training, as `dmn convert` does."""
        return isinstance(self.model, SplitModel)

    @property
    def ordinary(self) -> nn.Module:
        """The network as methods take it that know no streams: of a split one, its operations."""
        return self.model.network if isinstance(self.model, SplitModel) else self.model

    def as_pair(self, example: Tensor | None = None) -> Pair:
        """Return the network as g - h: as it is, read through its front, or split.

        It is made once; later calls return the same pair.

        Args:
            example: An image (1, C, H, W), on the network's device, to check a split on, and to
                find out which layers hold images; without it, every layer is offered.

        Raises:
            UnsupportedError: if it must be split and cannot be; lists every operation without a
                rule.
            NotEqualError: if the split network does not predict what this one does on the example.
        """
        if not self._pairs:
            self._pairs.append(as_pair(self.model, *([] if example is None else [example])))
            if isinstance(self.model, SplitModel) and example is not None:
                self.model.find_image_layers(example)
        return self._pairs[0]

    def check(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W), or refuse those that a network of unknown size fails at.

        Raises:
            DataError: says how it fails.
        """
        if self.size is None:
            try:
                self.predict(x)
            except Exception as error:
                raise DataError(
                    f"{self.name} fails at an image of size {size_text(x.shape[1:])}: "
                    f"{one_line(error)}; if it takes another size, give that (--size)"
                ) from error
        return x

    def label(self, index: int) -> str:
        """Return the name of a class, which is its index where names are not known."""
        return self.classes[index] if self.classes else str(index)

    def index(self, name: str) -> int:
        """Return the index of a class, by its name in any case, to explain it.

        Raises:
            UnknownNameError: if no class has the name, with those that are close; if several have;
                or if names are not known.
        """
        if not self.classes:
            raise UnknownNameError(
                f"no class {name!r}; names of classes are not known: give an index, or --classes"
            )
        return find_class(name, self.classes)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the predicted classes (B,) of images (B, C, H, W)."""
        return predict_logits(self.model, x).argmax(dim=1)

    def restore(self, x: Tensor) -> Tensor:
        """Undo the normalisation: images (B, C, H, W) in [0, 1] again."""
        return x * per_channel(self.std, 1.0).to(x) + per_channel(self.mean, 0.0).to(x)
