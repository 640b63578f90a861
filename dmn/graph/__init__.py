"""Networks as graphs of operations, traced, named, and compared with the original."""

from dmn.graph.equal import require_equal
from dmn.graph.head import drop_softmax_head
from dmn.graph.nodes import Unsupported, describe, is_call, target_of, unsupported
from dmn.graph.trace import Traced, rename, trace

__all__ = [
    "Traced",
    "Unsupported",
    "describe",
    "drop_softmax_head",
    "is_call",
    "rename",
    "require_equal",
    "target_of",
    "trace",
    "unsupported",
]
