"""Image classifiers that explain themselves, and a measure of how good an explanation is.

The package itself has two functions: `load` returns a trained network by name or file, and `export`
writes one with its explanation as an ONNX file. Everything else is in its packages. `import dmn` is
fast, because torch is imported by these functions only.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from torch import Tensor, nn

    from dmn.hub.network import Network
    from dmn.nn import Stream
    from dmn.onnx import Parity

__version__ = version("dmn")


def load(
    name: str | Path,
    weights: str | Path | None = None,
    *,
    num_classes: int | None = None,
    model: nn.Module | None = None,
    size: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | str | Path | None = None,
) -> Network:
    """Load a trained network, ready to classify and to be explained.

    This is `dmn.hub.load`, which imports torch; importing `dmn` does not.

    Args:
        name: A shipped network such as "scenes", the folder of a run, a `.safetensors` file with
            its card or of `dmn convert`, a classifier of torchvision, `timm:NAME`, `hf:FOLDER`, or
            `package.module:factory` of your own, which is imported and called; see `dmn.hub.load`.
        weights: For the last four: a file; for torchvision's and timm's also a name such as
            "DEFAULT".
        num_classes: For the same networks: number of outputs.
        model: For converted networks of your own architecture: a network of the same architecture.
        size: For the same networks: channels, height and width that pictures are brought to.
        mean: For the same networks: subtracted from each channel of pictures in [0, 1].
        std: For the same networks: what each channel is then divided by.
        classes: For the same networks: names of the outputs, or a text file with one name per line.

    Returns:
        The model with its classes and the transform from a picture to what it takes.

    Raises:
        UnknownNameError: if there is no such network; lists those that there are.
        CheckpointError: if a file is damaged, by its hash or its content.
        OptionError: if an option is given that networks of this kind do not have.

    Examples:
        >>> import dmn
        >>> network = dmn.load("mnist_paired")
        >>> network.size
        (1, 28, 28)
    """
    from dmn.hub import load as load_network  # brings torch, which takes seconds

    return load_network(
        name,
        weights,
        num_classes=num_classes,
        model=model,
        size=size,
        mean=mean,
        std=std,
        classes=classes,
    )


def export(
    network: Network | str | Path,
    path: str | Path,
    method: str = "SplitLRP",
    layer: str | None = None,
    *,
    streams: Sequence[Stream] | None = None,
    target: bool = False,
    pixels: bool = False,
    images: Tensor | None = None,
    **options: Any,
) -> Parity | None:
    """Write a network and its explanation as one ONNX graph, from images to logits and maps.

    This is `dmn.onnx.export`, which imports torch and, from the extra `onnx`, torch's exporter.

    Args:
        network: The network, or what `load` takes.
        path: File to write, `.onnx`.
        method: "SplitLRP", "SplitCAM" or "SplitGrad".
        layer: Layer to read, such as "input"; None for the method's default.
        streams: Any of "g", "h" and "g-h", a map each; by default the method's own.
        target: Whether class indices are a second input; otherwise the predicted class is
            explained.
        pixels: Whether the graph takes images in [0, 1], and normalises them.
        images: Images to compare torch and onnxruntime on; by default random.
        **options: Further options of the method.

    Returns:
        The largest differences between onnxruntime and torch, or None without onnxruntime.

    Raises:
        MissingPackageError: without the extra `onnx`.
        UnsupportedError: lists what cannot be exported.
        NotEqualError: if onnxruntime computes something else than torch; nothing is written.
    """
    from dmn.onnx import export as export_network  # brings torch, which takes seconds

    return export_network(
        network,
        path,
        method,
        layer,
        streams=streams,
        target=target,
        pixels=pixels,
        images=images,
        **options,
    )
