"""Several processes that score at once, each on its own accelerator."""

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
    """Processes that Lightning starts; if one fails, all stop.

    Args:
        device: Kind of accelerator, e.g. "cpu" or "cuda".
        count: Number of processes; -1 is one per accelerator.

    Raises:
        RunError: if there are fewer accelerators than processes.
    """

    def __init__(self, device: str, count: int) -> None:
        # Processes do not wait for one another, so it is enough that all have ended.
        strategy = DDPStrategy(start_method="spawn", process_group_backend="gloo")
        try:
            accelerator = torch.device(device).type
            self._fabric = Fabric(accelerator=accelerator, devices=count, strategy=strategy)
        except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
            raise RunError(f"devices: {count} of {device}: {error}") from error

    def run(self, work: Callable[[Fabric], Any]) -> None:
        """Run the work in each process, and wait until all have finished.

        Args:
            work: Called in each process; must be picklable.

        Raises:
            RunError: if a process fails; gives its error.
        """
        try:
            self._fabric.launch(work)
        except ProcessException as error:
            reason = str(error).strip().splitlines()[-1]  # the last line of its traceback
            raise RunError(
                f"process {error.error_index} failed: {reason}; what was scored is kept, and the "
                "same command goes on"
            ) from error
