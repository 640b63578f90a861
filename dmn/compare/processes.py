"""Several processes that score at once, an accelerator each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch.multiprocessing.spawn import ProcessException

from dmn.errors import RunError


class Processes:
    """Processes that Lightning starts; if one fails, all end.

    Args:
        device: Kind of accelerator, e.g. "cpu" or "cuda".
        count: How many processes; -1 is as many as there are accelerators.

    Raises:
        RunError: if there are not as many accelerators.
    """

    def __init__(self, device: str, count: int) -> None:
        # No process waits for another, so none can wait in vain: that all have ended is enough.
        strategy = DDPStrategy(start_method="spawn", process_group_backend="gloo")
        try:
            accelerator = torch.device(device).type
            self._fabric = Fabric(accelerator=accelerator, devices=count, strategy=strategy)
        except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
            raise RunError(f"devices: {count} of {device}: {error}") from error

    def run(self, work: Callable[[Fabric], Any]) -> None:
        """Let each process do the work, and wait until all have.

        Args:
            work: Called in each; can be pickled.

        Raises:
            RunError: says how the first that failed did.
        """
        try:
            self._fabric.launch(work)
        except ProcessException as error:
            reason = str(error).strip().splitlines()[-1]  # the last line of its traceback
            raise RunError(
                f"process {error.error_index} failed: {reason}; what was scored is kept, and the "
                "same command goes on"
            ) from error
