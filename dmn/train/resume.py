"""Options that must not change when a run is resumed from a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmn.errors import OptionError
from dmn.hub.cards import read_card
from dmn.io.yaml import read_yaml

FIXED = ("seed_everything", "data", "model", "unfreeze")
CHANGEABLE = {  # options among these that change neither weights nor data
    *("data.init_args.num_workers", "model.explainers", "model.calibration", "model.channels_last")
}
LENGTH = 100  # characters of a value that are shown


def check_same_run(checkpoint: Path, config: str) -> None:
    """Refuse to resume a run with another network, optimizer or seed, or other data.

    Args:
        checkpoint: File in the `checkpoints` folder of the run, beside which its configuration is;
            a checkpoint without a configuration is not checked.
        config: The new configuration, in YAML.

    Raises:
        OptionError: if an option differs; names the first one, and both values.
        CheckpointError: if the run's configuration cannot be read.
    """
    config_path = checkpoint.parent.parent / "config.yaml"
    if not os.path.isfile(config_path):
        return
    configs = (read_card(config_path), read_yaml(config.encode()))
    before, now = ({key: options.get(key) for key in FIXED} for options in configs)
    for key, old, new in _differences(before, now):
        raise OptionError(
            f"{key} is {_truncated(new)}, but was {_truncated(old)} in {config_path}; give it as "
            f"it was, or start anew from the weights by `dmn finetune --init_from {checkpoint}`"
        )


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the options that differ, class paths first; missing ones are null."""
    if key in CHANGEABLE or old == new:
        return
    if not (isinstance(old, dict) and isinstance(new, dict)):
        yield key, old, new
        return
    for name in sorted(old.keys() | new.keys(), key=str):
        yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))


def _truncated(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}..."
