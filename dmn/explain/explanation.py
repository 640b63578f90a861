"""One result: an image, what a network says of it, and the maps that explain that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from dmn.errors import BundleError, DataError
from dmn.explain.target import probabilities
from dmn.io.bundles import (
    from_json,
    pack_tensors,
    read_bundle,
    to_json,
    unpack_tensors,
    write_bundle,
)
from dmn.nn import Stream

FORMAT = "dmn.explanation/1"
FACTS, TENSORS = "explanation.json", "tensors.safetensors"
STREAMS: tuple[Stream, ...] = get_args(Stream)
SHARED = ("x", "image", "logits")  # names of tensors that are no maps


@dataclass(frozen=True, eq=False)
class Explanation:
    """What explains one class of one image, by one method; `dmn.hub.Network.explain` makes one.

    Attributes:
        x: The image as the network saw it, (C, H, W).
        image: The image as it is drawn, (C, H, W) in [0, 1].
        logits: Of all classes, (K,).
        target: Index of the explained class.
        rival: Index of the class that it is explained against; None if there is none.
        maps: Maps (1, H, W) by stream: "g" for evidence, "h" for counter-evidence, "g-h" for both
            and for methods without streams. Positive values speak for the target (over its rival),
            in "h" against it.
        method: Name of the method; see `find_method`.
        settings: Options that the method was made with, as JSON has them.
        network: The name that the network was loaded by.
        network_sha256: SHA-256 of its weights as a .safetensors file. Of a shipped network it is
            that of its card.
        classes: A name for each output; empty if they are not known.
        versions: Of dmn and torch.
        picture: Name of the image's file; None if it was no file.
        picture_sha256: SHA-256 of that file.

    Raises:
        DataError: if something does not fit, such as a class that is not there; says what.

    Examples:
        >>> data = dmn.data.MNIST()
        >>> data.setup("test")
        >>> network = dmn.load("mnist_paired")
        >>> explanation = network.explain(data.test.images[0], target="7", against="1")
        >>> explanation.label(explanation.rival), list(explanation.maps)
        ('1', ['g', 'h', 'g-h'])
        >>> for_7, for_1 = explanation.evidence()
        >>> torch.equal(for_7 - for_1, explanation.maps["g-h"])
        True
    """

    x: Tensor = field(repr=False)
    image: Tensor = field(repr=False)
    logits: Tensor = field(repr=False)
    target: int
    rival: int | None
    maps: Mapping[Stream, Tensor] = field(repr=False)
    method: str
    settings: Mapping[str, Any]
    network: str
    network_sha256: str = field(repr=False)
    classes: tuple[str, ...] = field(default=(), repr=False)
    versions: Mapping[str, str] = field(default_factory=dict, repr=False)
    picture: str | None = None
    picture_sha256: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            settings = json.loads(to_json(dict(self.settings)))  # as they are read
        except (TypeError, ValueError) as error:
            raise DataError(f"settings are no JSON: {error}") from error
        object.__setattr__(self, "settings", settings)
        if fault := _fault(self):
            raise DataError(f"this is no explanation: {fault}")

    def label(self, index: int) -> str:
        """Return the name of a class, or its index as text if names are not known."""
        return self.classes[index] if self.classes else str(index)

    @property
    def probabilities(self) -> Tensor:
        """The classes' probabilities, (K,): the softmax, or of a single logit the sigmoid."""
        return probabilities(self.logits[None])[0]

    def evidence(self, stream: Stream = "g-h") -> tuple[Tensor, Tensor]:
        """Divide a map into what is positive and what is negative.

        Of `g-h` these are evidence for the class, and against it; with a rival, evidence for the
        class over the rival, and for the rival over the class.

        Args:
            stream: Of which map.

        Returns:
            Two maps (1, H, W), both >= 0; the first minus the second is the map.
        """
        return self.maps[stream].clamp(min=0), (-self.maps[stream]).clamp(min=0)

    def save(self, path: str | Path) -> Path:
        """Save it as a bundle: a .zip file or a folder; `dmn show` draws it.

        Numbers are kept bit for bit. A manifest with the hash of each member is written last.

        Args:
            path: A file if it ends with .zip, otherwise a folder.

        Returns:
            The path.

        Raises:
            WriteError: if it cannot be written, or the folder holds other files.
        """
        maps = {f"maps/{stream}": tensor for stream, tensor in self.maps.items()}
        shared = {name: getattr(self, name) for name in SHARED}
        facts = {name: getattr(self, name) for name in _KINDS}
        members = {FACTS: to_json(facts), TENSORS: pack_tensors(shared | maps)}
        return write_bundle(path, members, FORMAT)

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        """Load a bundle that `save` has written, without executing code.

        Args:
            path: The .zip file or the folder.

        Raises:
            BundleError: if it is missing, cut short or changed, or holds anything else; names the
                bundle and the member. The hashes show damage, and not who has written it.
        """
        members = read_bundle(path, (FACTS, TENSORS), FORMAT)
        member = FACTS
        try:
            facts = from_json(members[FACTS])
            _require_facts(facts)
            member = TENSORS
            tensors = unpack_tensors(members[TENSORS])
            if missing := {*SHARED} - tensors.keys():
                raise ValueError(f"has no {min(missing)}")
            shared: Any = {name: tensors.pop(name) for name in SHARED}
            maps: Any = {
                stream: tensors.pop(f"maps/{stream}")
                for stream in STREAMS
                if f"maps/{stream}" in tensors
            }
            if tensors:
                raise ValueError(f"holds other tensors, such as {min(tensors)!r}")
            member = f"{FACTS}, {TENSORS}"
            facts["classes"] = tuple(facts["classes"])
            return cls(**shared, maps=maps, **facts)
        except (ValueError, DataError) as error:
            raise BundleError(f"{path}: {member}: {error}") from error


_KINDS: dict[str, tuple[type, ...]] = {  # what JSON holds
    "target": (int,),
    "rival": (int, type(None)),
    "method": (str,),
    "settings": (dict,),
    "network": (str,),
    "network_sha256": (str,),
    "classes": (list,),
    "versions": (dict,),
    "picture": (str, type(None)),
    "picture_sha256": (str, type(None)),
}


def _require_facts(facts: Any) -> None:
    """Refuse facts of other names or types."""
    if not isinstance(facts, dict) or facts.keys() != _KINDS.keys():
        raise ValueError(f"must say {', '.join(_KINDS)}, and nothing else")
    for name, kinds in _KINDS.items():
        if type(facts[name]) not in kinds:
            raise ValueError(f"{name!r} is a {type(facts[name]).__name__}")
    texts = [*facts["classes"], *facts["versions"].values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("'classes' and 'versions' must be texts")


def _fault(given: Explanation) -> str:
    """Say what does not fit in an explanation; nothing if all does."""
    x, count = given.x, len(given.logits) if given.logits.dim() == 1 else 0
    tensors: dict[str, Tensor] = {"x": x, "image": given.image, "logits": given.logits}
    tensors.update((str(stream), values) for stream, values in given.maps.items())
    others = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    wrong = [name for name, each in given.maps.items() if each.shape != (1, *x.shape[1:])]
    indices = [index for index in (given.target, given.rival) if index is not None]
    checks = {
        f"{', '.join(others)}: no floating point numbers": not others,
        f"x has the shape {tuple(x.shape)}, not (C, H, W)": x.dim() == 3 and x.numel() > 0,
        f"image has the shape {tuple(given.image.shape)}": given.image.shape == x.shape,
        "there are no logits (K,)": count > 0,
        f"maps are of {', '.join(given.maps) or 'nothing'}, and not of some of g, h, g-h": (
            len(given.maps) > 0 and {*given.maps} <= {*STREAMS}
        ),
        f"the map of {', '.join(wrong)} has not the size of x": not wrong,
        f"{len(given.classes)} names for {count} classes": len(given.classes) in (0, count),
        f"no class {indices} of {count}": all(0 <= index < count for index in indices),
        "the class is its own rival": given.target != given.rival,
    }
    return next((fault for fault, fits in checks.items() if not fits), "")
