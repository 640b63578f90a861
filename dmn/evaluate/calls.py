"""What a network does to images, module by module."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from dmn.errors import UnsupportedError


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module.

    Attributes:
        name: Of the module; empty for the network.
        module: The module.
        input: The tensor that it got.
        output: The tensor that it returned; it may have been overwritten.
        value: What it returned.
    """

    name: str
    module: nn.Module
    input: Tensor
    output: Tensor
    value: Tensor

    @property
    def is_leaf(self) -> bool:
        """Whether the module has no others."""
        return not any(True for _ in self.module.children())

    @property
    def positions(self) -> int:
        """The number of positions that it returned; 0 of what holds no image."""
        return self.value.shape[2:].numel() if self.value.dim() == 4 else 0

    @property
    def maps_images(self) -> bool:
        """Whether it takes images and returns images."""
        return self.input.dim() == 4 == self.value.dim()

    def is_within(self, block: Call) -> bool:
        """Return whether this is a call of a module within another's."""
        return self.name.startswith(f"{block.name}.") if block.name else bool(self.name)


def record_calls(model: nn.Module, x: Tensor) -> list[Call]:
    """Run a network, and return all calls of modules with a single tensor, in order."""
    calls: list[Call] = []

    def note(name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            calls.append(Call(name, module, args[0], output, output.clone()))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_hook(partial(note, name)))
        model(x)
    return calls


def unsupported(call: Call, reason: str) -> UnsupportedError:
    """Return an error that names the layer where the tiles of a mosaic cannot be disconnected."""
    kind = type(call.module).__name__
    layer = f"layer {call.name} ({kind})" if call.name else f"the network ({kind})"
    return UnsupportedError(f"cannot disconnect the tiles of a mosaic: {layer} {reason}")
