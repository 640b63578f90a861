"""Several processes that score at once, each on its own accelerator, on one machine or more."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch.multiprocessing.spawn import ProcessException

from dmn.errors import RunError

ENVIRONMENTS = (TorchElasticEnvironment, SLURMEnvironment)  # which start the processes themselves
LONGEST = timedelta(days=7)  # that one process waits for the others
log = logging.getLogger(__name__)


class Processes:
    """Processes that share a comparison; Lightning, torchrun or SLURM starts them.

    Of those that Lightning starts on one machine, all stop if one fails. The others do not need one
    another: if one fails or is killed, the first one scores what it has left.

    Args:
        device: Kind of accelerator, e.g. "cpu" or "cuda".
        count: Number of processes on each machine; -1 is one per accelerator.
        num_nodes: Number of machines.

    Attributes:
        launched: Whether this process is already one of them.

    Raises:
        RunError: if there are fewer accelerators than processes, or torchrun or SLURM has started
            another number of them.
    """

    def __init__(self, device: str, count: int, num_nodes: int = 1) -> None:
        environment = _environment()
        self.launched = num_nodes > 1 or _world_size() > 1
        # Processes wait for one another only when all is scored, whatever their accelerator.
        strategy = DDPStrategy(
            start_method="popen" if self.launched else "spawn",
            process_group_backend="gloo",
            timeout=LONGEST,
        )
        try:
            accelerator = torch.device(device).type
            self._fabric = Fabric(
                accelerator=accelerator, devices=count, num_nodes=num_nodes, strategy=strategy
            )
            if environment:
                environment.validate_settings(strategy.num_processes, num_nodes)
        except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
            where = f" on each of {num_nodes} machines" if num_nodes > 1 else ""
            raise RunError(f"devices: {count} of {device}{where}: {error}") from error

    @property
    def is_first(self) -> bool:
        """Whether this process writes the report."""
        return not self.launched or self._fabric.is_global_zero

    def run(self, work: Callable[[Fabric], Any]) -> None:
        """Run the work in each process, and wait until all have finished.

        Args:
            work: Called in each process; must be picklable.

        Raises:
            RunError: if a process that Lightning has started fails; gives its error.
        """
        try:
            self._fabric.launch(work)
        except ProcessException as error:
            reason = str(error).strip().splitlines()[-1]  # the last line of its traceback
            raise RunError(
                f"process {error.error_index} failed: {reason}; what was scored is kept, and the "
                "same command goes on"
            ) from error
        if self.launched:
            self._wait()

    def _wait(self) -> None:
        try:
            self._fabric.barrier()
        except RuntimeError as error:
            log.warning("another process has failed: %s", str(error).splitlines()[0])


def needed(count: int, num_nodes: int) -> bool:
    """Return whether there is more than one process to share the work."""
    return count != 1 or num_nodes != 1 or _world_size() > 1


def _world_size() -> int:
    """Return how many processes torchrun or SLURM has started; 1 if neither has."""
    environment = _environment()
    return environment.world_size() if environment else 1


def _environment() -> ClusterEnvironment | None:
    return next((environment() for environment in ENVIRONMENTS if environment.detect()), None)
