"""Where other projects put a network's weights in a file: under a name, and behind a prefix."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dmn.errors import CheckpointError
from dmn.io.text import plain

WRAPPERS = (  # names of the weights beside an optimizer, an epoch, ...; the first that is there
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module"),
    *("weights", "params"),
    *("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "params_ema", "shadow"),
)
LEVELS = 4  # of such names within each other
AVERAGED = re.compile(r"(^|[._])(ema|shadow)([._]|$)")
SHOWN = 3

log = logging.getLogger(__name__)


def unwrap(content: Any, path: Path) -> Any:
    """Return the state dict of a training's file, which holds it under one of `WRAPPERS`.

    Averaged weights are taken only if there are no plain ones, and a log message says so.

    Args:
        content: Of the file; returned as it is if there is none of these names.
        path: The file.
    """
    for _ in range(LEVELS):
        names = [name for name in WRAPPERS if _holds_dictionary(content, name)]
        if not names:
            break
        content = content[names[0]]
        if AVERAGED.search(names[0]):
            log.info("%s: its averaged weights, %r, are taken", path, names[0])
    return content


def drop_prefix(
    state: Mapping[str, Tensor], expected: Collection[str], path: str | Path
) -> dict[str, Tensor]:
    """Return the weights of one network by its own keys, from a state dict that holds more.

    The prefix, such as "module." or "model.net.", is the one by which most keys are the network's.
    None at all is preferred to any other, and averaged weights ("ema.") come last. Keys without
    the prefix are left out, and logged.

    Args:
        state: The state dict of a file.
        expected: Keys of the network.
        path: The file.

    Raises:
        CheckpointError: if several prefixes fit alike; names them.
    """
    prefix = _prefix(state, expected, path)
    if left_out := [key for key in state if not key.startswith(prefix)]:
        more = f" and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
        shown = plain(", ".join(left_out[:SHOWN]))
        log.info("%s: the weights are those of %r; left out: %s%s", path, prefix, shown, more)
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def _holds_dictionary(content: Any, name: str) -> bool:
    return isinstance(content, dict) and isinstance(content.get(name), dict)


def _prefix(state: Collection[str], expected: Collection[str], path: str | Path) -> str:
    dots = max((key.count(".") for key in expected), default=0)
    counts = Counter(
        prefix for key in state for prefix, rest in _divisions(key, dots) if rest in expected
    )
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    best = [prefix for prefix in best if not AVERAGED.search(prefix)] or best
    if len(best) == 1:
        return best[0]
    if best and "" not in best and most > len(expected) / 2:
        raise CheckpointError(
            f"{path}: holds several networks of these keys, {plain(', '.join(sorted(best)))}; keep "
            "the keys of one only"
        )
    return ""


def _divisions(key: str, dots: int) -> Iterator[tuple[str, str]]:
    """Divide a key into a prefix, which is empty or ends with a dot, and a rest of so many dots."""
    parts = key.rsplit(".", dots + 1)
    for index in range(len(parts)):
        rest = ".".join(parts[index:])
        yield key[: len(key) - len(rest)], rest
