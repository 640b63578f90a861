"""Networks as graphs of operations, traced, named, and compared with the original."""

from dmn.graph.equal import require_equal
from dmn.graph.trace import Traced, Unsupported, describe, rename, target_of, trace, unsupported

__all__ = [
    "Traced",
    "Unsupported",
    "describe",
    "rename",
    "require_equal",
    "target_of",
    "trace",
    "unsupported",
]
