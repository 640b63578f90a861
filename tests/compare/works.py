"""What processes of a comparison are given to do, apart: they import it anew."""

import os
import signal
import time

HOURS = 10_000


def raises(fabric):
    if fabric.global_rank == 0:
        time.sleep(HOURS)
    raise ValueError("no luck")


def is_killed(fabric):
    if fabric.global_rank == 0:
        time.sleep(HOURS)
    os.kill(os.getpid(), signal.SIGKILL)
