"""Failures that are not worth a training run: told once, and counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])
log = logging.getLogger(__name__)


class Failures:
    """Counts what failed: says why the first time, and how often at the end.

    Args:
        of: Whose failures they are, e.g. "quantus".
    """

    def __init__(self, of: str) -> None:
        self.of = of
        self.counts: Counter[str] = Counter()

    def note(self, remark: str, where: str = "", count: int = 1) -> None:
        """Count a failure, and say what it is if it is the first of its kind.

        Args:
            remark: What failed, and why; the same words are the same kind.
            where: Where it was first.
            count: How often.
        """
        if remark not in self.counts:
            log.warning("%s: %s%s", self.of, remark, where and f" ({where})")
        self.counts[remark] += count

    @contextmanager
    def suppress_and_count(self, what: str) -> Iterator[None]:
        """Go on behind the block if it raises, as nothing here is worth a training run.

        Args:
            what: What is being done; all failures of it by one type of error are of one kind.
        """
        try:
            yield
        except Exception as error:
            kind = f"{what} failed by {type(error).__name__}"
            if kind not in self.counts:
                log.warning("%s: %s: %s", self.of, kind, error, exc_info=error)
            self.counts[kind] += 1

    def report(self) -> None:
        """Say how often what failed more than once, and start counting anew."""
        for remark, count in self.counts.most_common():
            if count > 1:
                log.warning("%s: %s: %d times in all", self.of, remark, count)
        self.counts.clear()


def log_and_continue(method: Method) -> Method:
    """Let a method of an object with `failures` go on, returning None, where it raises."""

    @wraps(method)
    def tolerant(self: Any, *args: Any, **options: Any) -> Any:
        with self.failures.suppress_and_count(method.__name__):
            return method(self, *args, **options)

    return tolerant  # type: ignore[return-value]
