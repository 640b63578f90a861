import logging

import pytest

from dmn.tracking.failures import Failures, log_and_continue


def test_a_failure_is_told_once_and_counted(caplog):
    failures = Failures("wandb")
    for reason in ("no route", "no host", "no luck"):
        with failures.suppress_and_count("sending"):
            raise ConnectionError(reason)
    failures.note("map is constant", "first in epoch 0", 3)
    failures.note("map is constant", "first in epoch 1", 2)
    failures.report()
    failures.report()
    assert [record.getMessage() for record in caplog.records] == [
        "wandb: sending failed by ConnectionError: no route",
        "wandb: map is constant (first in epoch 0)",
        "wandb: map is constant: 5 times in all",
        "wandb: sending failed by ConnectionError: 3 times in all",
    ]
    assert caplog.records[0].exc_info  # the trace, once
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_a_soft_method_returns_nothing_where_it_fails():
    class Logger:
        def __init__(self):
            self.failures = Failures("logger")

        @log_and_continue
        def divide(self, a, b=1):
            """Divide."""
            return a / b

    logger = Logger()
    assert logger.divide(6, b=3) == 2
    assert logger.divide(6, b=0) is None
    assert logger.failures.counts == {"divide failed by ZeroDivisionError": 1}
    assert Logger.divide.__doc__ == "Divide."


def test_leaving_is_no_failure():
    with pytest.raises(KeyboardInterrupt), Failures("x").suppress_and_count("waiting"):
        raise KeyboardInterrupt
