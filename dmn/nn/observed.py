"""Numbers that decide what is computed; a trace takes them from an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_recorded: ContextVar[list[Any] | None] = ContextVar("recorded", default=None)
_replayed: ContextVar[Iterator[Any] | None] = ContextVar("replayed", default=None)


def observed(look: Callable[[], T]) -> T:
    """Return what a function finds in tensors.

    Code that branches on the values of tensors cannot be traced, since a trace has none. It looks
    at them by this function: within `recording` the answers are kept, and within `replaying` they
    are given once more, in the same order, without looking.

    Args:
        look: Looks at tensors, and returns something else than tensors.

    Examples:
        >>> from dmn.nn.observed import observed, recording, replaying
        >>> with recording() as answers:
        ...     observed(lambda: float(torch.ones(2).max()))
        1.0
        >>> with replaying(answers):
        ...     observed(lambda: float(torch.zeros(2).max()))
        1.0
    """
    answers = _replayed.get()
    if answers is not None:
        answer: T = next(answers)
        return answer
    answer = look()
    kept = _recorded.get()
    if kept is not None:
        kept.append(answer)
    return answer


@contextmanager
def recording() -> Iterator[list[Any]]:
    """Keep the answers of `observed`, in a list that fills meanwhile."""
    answers: list[Any] = []
    token = _recorded.set(answers)
    try:
        yield answers
    finally:
        _recorded.reset(token)


@contextmanager
def replaying(answers: list[Any]) -> Iterator[None]:
    """Give the recorded answers of `observed` once more, to the same computation."""
    token = _replayed.set(iter(answers))
    try:
        yield
    finally:
        _replayed.reset(token)
