"""Failures that must not stop a training: logged once, and counted."""

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
    """Count failures that must not stop a run; log the first of each kind, and at the end how many.

    Args:
        of: What fails, e.g. "quantus".

    Examples:
        >>> from dmn.tracking import Failures
        >>> failures = Failures("heatmaps")
        >>> for _ in range(3):
        ...     with failures.suppress_and_count("drawing"):
        ...         raise OSError("no space left")
        >>> dict(failures.counts)
        {'drawing failed by OSError': 3}
    """

    def __init__(self, of: str) -> None:
        self.of = of
        self.counts: Counter[str] = Counter()

    def note(self, remark: str, where: str = "", count: int = 1) -> None:
        """Count a failure, and log it if it is the first of its kind.

        Args:
            remark: What failed, and why; equal text is the same kind.
            where: Where it happened.
            count: How many times.
        """
        if remark not in self.counts:
            log.warning("%s: %s%s", self.of, remark, where and f" ({where})")
        self.counts[remark] += count

    @contextmanager
    def suppress_and_count(self, what: str) -> Iterator[None]:
        """Continue after the block if it raises; the failure is logged and counted.

        Args:
            what: What the block does; failures with the same type of error are of one kind.
        """
        try:
            yield
        except Exception as error:
            kind = f"{what} failed by {type(error).__name__}"
            if kind not in self.counts:
                log.warning("%s: %s: %s", self.of, kind, error, exc_info=error)
            self.counts[kind] += 1

    def report(self) -> None:
        """Log how often each kind failed, if more than once, and reset the counts."""
        for remark, count in self.counts.most_common():
            if count > 1:
                log.warning("%s: %s: %d times in all", self.of, remark, count)
        self.counts.clear()


def log_and_continue(method: Method) -> Method:
    """Decorate a method so that it returns None instead of raising, and its failure is counted.

    Args:
        method: Method of an object whose attribute `failures` is a `Failures`.
    """

    @wraps(method)
    def wrapper(self: Any, *args: Any, **options: Any) -> Any:
        with self.failures.suppress_and_count(method.__name__):
            return method(self, *args, **options)

    return wrapper  # type: ignore[return-value]
