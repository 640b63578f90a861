"""Cards and configurations of networks, validated before anything is built from them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from dmn.errors import CheckpointError
from dmn.io.yaml import read_yaml

LARGEST_IMAGE = 2**26  # numbers
MOST_CLASSES = 2**20


def _fits(size: list[int]) -> list[int]:
    if math.prod(size) > LARGEST_IMAGE:
        raise ValueError("too large")
    return size


Size = Annotated[list[PositiveInt], Field(min_length=3, max_length=3), AfterValidator(_fits)]
PositiveFloat = Annotated[FiniteFloat, Field(gt=0)]


class ImageCard(BaseModel):
    """What a network's images are like. The descriptions say what a field must be.

    Attributes:
        size: Channels, height and width; None where that is not known.
        mean: Subtracted from each channel of images in [0, 1]; None for 0.
        std: What each channel is then divided by; None for 1.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    size: Size | None = Field(
        description=f"channels, height and width, together at most {LARGEST_IMAGE}, or null"
    )
    mean: Annotated[list[FiniteFloat], Field(min_length=1)] | None = Field(
        description="a list of numbers, or null"
    )
    std: Annotated[list[PositiveFloat], Field(min_length=1)] | None = Field(
        description="a list of positive numbers, or null"
    )

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> ImageCard:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if self.size and values and len(values) not in (1, self.size[0]):
                raise PydanticCustomError(
                    "channels", f"{name!r} must be of {self.size[0]} channels"
                )
        return self


class Card(ImageCard):
    """What a network's card must say; whatever else it says is kept.

    Attributes:
        net: Class path and arguments of the network.
        classes: A name for each output.
    """

    net: dict[Any, Any] = Field(description="a class path and its arguments")
    classes: list[str] = Field(min_length=1, description="a list of names")


AnyCard = TypeVar("AnyCard", bound=BaseModel)


def read_card(path: Path) -> dict[str, Any]:
    """Read a card (`.json`) or a run's configuration (`.yaml`), without executing code.

    Raises:
        CheckpointError: if it cannot be read.
    """
    content = content_of(path)
    try:
        values = json.loads(content) if path.suffix == ".json" else read_yaml(content)
    except Exception as error:  # nested too deeply, of impossible dates, ...
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: cannot be read: {reason}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds neither a card nor a configuration")
    return values


def content_of(path: Path) -> bytes:
    """Read a file.

    Raises:
        CheckpointError: if that fails.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def validate_card(kind: type[AnyCard], values: Any, path: Path | str) -> AnyCard:
    """Return a card of a kind, or refuse its values.

    Args:
        kind: The model whose fields are required.
        values: Of `read_card`, or made of a run's configuration.
        path: Where they are from.

    Raises:
        CheckpointError: names the first field that is missing or wrong, and says what it must be.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = kind.model_fields.get(str(next(iter(first["loc"]), "")))
        fault = f"{first['loc'][0]!r} must be {field.description}" if field else first["msg"]
        raise CheckpointError(f"{path}: {fault}") from error


def count_of_classes(value: Any) -> int:
    """Return a number of classes that names can be made for.

    Raises:
        ValueError: if it is none.
    """
    if type(value) is not int or not 0 < value <= MOST_CLASSES:
        raise ValueError(f"'num_classes' must be a number from 1 to {MOST_CLASSES}")
    return value
