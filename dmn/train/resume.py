"""What has to be as it was when a run goes on from a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmn.errors import OptionError
from dmn.hub.cards import read_card
from dmn.io.yaml import read_yaml

KEPT = ("seed_everything", "data", "model", "unfreeze")
FREE = {  # of these, what changes neither weights nor data
    *("data.init_args.num_workers", "model.explainers", "model.calibration", "model.channels_last")
}
LENGTH = 100  # of a value that is shown


def check_same_run(checkpoint: Path, config: str) -> None:
    """Refuse to go on with another network, optimizer, seed, or other data than a run began with.

    Args:
        checkpoint: In the `checkpoints` folder of the run, whose configuration lies beside that;
            one that lies elsewhere, where nothing is known of its run, is left to its own.
        config: The configuration to go on with, in YAML.

    Raises:
        OptionError: names the first option that differs, and both values.
        CheckpointError: if the run's configuration cannot be read.
    """
    told_by = checkpoint.parent.parent / "config.yaml"
    if not os.path.isfile(told_by):
        return
    both = (read_card(told_by), read_yaml(config.encode()))
    before, now = ({key: each.get(key) for key in KEPT} for each in both)
    for key, was, wanted in _differences(before, now):
        raise OptionError(
            f"{key} is {_shown(wanted)}, but was {_shown(was)} in {told_by}; give it as it was, or "
            f"start anew from the weights by `dmn finetune --init_from {checkpoint}`"
        )


def _differences(was: Any, now: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Tell the options that differ, class paths first; what is missing is null."""
    if key in FREE or was == now:
        return
    if not (isinstance(was, dict) and isinstance(now, dict)):
        yield key, was, now
        return
    for name in sorted(was.keys() | now.keys(), key=str):
        yield from _differences(was.get(name), now.get(name), f"{key}.{name}" if key else str(name))


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}..."
