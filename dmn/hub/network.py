"""A classifier, and what is needed to use it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dmn.errors import DataError, UnknownNameError
from dmn.explain import Explanation
from dmn.explain.target import find_class
from dmn.hub import explaining
from dmn.hub.preprocess import per_channel
from dmn.io.text import one_line, size_text
from dmn.nn import Pair, Stream, is_pair, predict_logits
from dmn.split import SplitModel, as_pair


@dataclass(frozen=True)
class Network:
    """A classifier with everything that is needed to use it; `dmn.load` returns one.

    Attributes:
        name: The name that it was loaded by.
        model: The network, in eval mode, its parameters without gradient.
        classes: A name for each output; empty if they are not known.
        size: Channels, height and width of its images; None if that is not known.
        mean: Subtracted from each channel of images in [0, 1]; None for 0.
        std: What each channel is then divided by; None for 1.
        transform: From a picture (PIL, or a tensor (C, H, W), uint8 or in [0, 1]) to what the
            network takes, (C, H, W): grey if it has one channel, as small as `size` allows, cropped
            to the centre, normalised.
        card: What else is known of it.
        source: Where the weights are from: "shipped"; "card" for a file with its card; "run";
            "converted"; for classifiers of torchvision, timm and Hugging Face "random", the name of
            the weights, or the name of their file; for your own networks the name of the file, or
            "own". Empty for a network that was not loaded.
        bgr: Whether the transform puts blue before red, which `restore` undoes.

    Examples:
        >>> import dmn
        >>> from dmn.data import MNIST
        >>> network = dmn.load("mnist_paired")
        >>> network.size, network.classes[:3], network.is_pair
        ((1, 28, 28), ('0', '1', '2'), True)
        >>> data = MNIST()
        >>> data.setup("test")
        >>> [network.label(index) for index in network.predict(data.test.images[:4]).tolist()]
        ['0', '1', '2', '3']
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
    bgr: bool = field(default=False, repr=False)
    _pairs: list[Pair] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def is_pair(self) -> bool:
        """Whether it is a difference g - h by itself, trained or split."""
        return is_pair(self.model)

    @property
    def is_split(self) -> bool:
        """Whether it is a network that was split after its training, e.g. by `dmn convert`."""
        return isinstance(self.model, SplitModel)

    @property
    def ordinary(self) -> nn.Module:
        """The network for methods without g and h; of a split one, its traced operations."""
        return self.model.network if isinstance(self.model, SplitModel) else self.model

    def as_pair(self, example: Tensor | None = None) -> Pair:
        """Return the network as g - h: as it is, read through its front, or split.

        The pair is made once; later calls return the same one.

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
        """Return images unchanged, or raise an error if the network fails on them.

        Only a network of unknown size is tried.

        Args:
            x: Images (B, C, H, W).

        Raises:
            DataError: if the network fails; says how.
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
        """Return the name of a class, or its index as text if names are not known."""
        return self.classes[index] if self.classes else str(index)

    def index(self, name: str) -> int:
        """Return the index of a class by its name, in upper or lower case.

        Raises:
            UnknownNameError: if no class has the name, with the names that are close; if several
                have it; or if names are not known.
        """
        if not self.classes:
            raise UnknownNameError(
                f"no class {name!r}; names of classes are not known: give an index, or --classes"
            )
        return find_class(name, self.classes)

    def explain(
        self,
        picture: Any,
        method: str = "SplitLRP",
        target: int | str | None = None,
        against: int | str | bool | None = None,
        *,
        streams: Collection[Stream] | None = None,
        **options: Any,
    ) -> Explanation:
        """Explain a class of a picture, as `dmn explain` does.

        Args:
            picture: A file, or what `transform` takes.
            method: Name of a method; import `dmn.baselines` for the post-hoc ones.
            target: The class, by index or by name; None for the predicted one.
            against: Another class, likewise, to explain why the target and not this; True for the
                most probable one besides the target. None for no other class.
            streams: Of split methods. By default all of trained pairs, "g-h" of SplitLRP and "g" of
                the others on split networks.
            **options: Of the method, such as `layer` and `alpha`. Without them it is made as
                `dmn explain` makes it.

        Returns:
            The image, its logits and the maps, which can be saved.

        Raises:
            UnreadableImageError: if the file cannot be read; names it.
            UnknownNameError: for a method, a layer or a class that does not exist.
            OptionError: for an option that the method does not take.
            TargetError: for a class that the network does not have, or that is its own rival.
            UnsupportedError: if the method cannot be applied to the network; lists the operations.

        Examples:
            >>> digit = torch.rand(1, 28, 28)
            >>> network = dmn.load("mnist_paired")
            >>> network.explain(digit, "SplitCAM", target=3, against="8").maps["g-h"].shape
            torch.Size([1, 28, 28])
        """
        return explaining.explain(self, picture, method, target, against, streams, options)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the predicted classes (B,) of images (B, C, H, W)."""
        return predict_logits(self.model, x).argmax(dim=1)

    def restore(self, x: Tensor) -> Tensor:
        """Undo the normalisation: images (B, C, H, W) in [0, 1] again."""
        x = x * per_channel(self.std, 1.0).to(x) + per_channel(self.mean, 0.0).to(x)
        return x.flip(1) if self.bgr else x
