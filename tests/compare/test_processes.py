"""Processes that score at once: all end, whatever becomes of one."""

import pytest
import works

from dmn.compare.processes import Processes
from dmn.errors import RunError

FATES = {"raises": "ValueError: no luck", "is_killed": "SIGKILL"}


@pytest.mark.torture(
    "one of two processes of `dmn compare --devices 2` fails, or is killed, while the other works "
    "for hours",
    "both end at once, and the reason is told",
)
def test_a_process_that_fails_ends_all(full, happened):
    reasons = []
    for fate in FATES if full else ["raises"]:
        with pytest.raises(RunError, match=f"^process 1 failed: .*{FATES[fate]}") as told:
            Processes("cpu", 2).run(getattr(works, fate))
        reasons.append(str(told.value))
    happened("; ".join(reasons))


@pytest.mark.parametrize(
    ("device", "count"), [("cpu", 0), ("cpu", -1), ("nope", 2), ("cuda", 10_000)]
)
def test_devices_that_there_are_not_are_refused(device, count):
    with pytest.raises(RunError, match=f"devices: {count} of {device}: "):
        Processes(device, count)
