"""Training of an image classifier: loss, accuracy, optimizer; the network is plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from dmn.data import as_batch
from dmn.errors import CheckpointError, DataError, OptionError
from dmn.explain import Explainer
from dmn.io.weights import format_mismatches, state_dict_mismatches
from dmn.train.groups import layerwise
from dmn.train.terms import Term

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler]
ExplainerFactory = Callable[[Any], Explainer]


class OneCycle(OneCycleLR):
    """Warm up to the optimizer's learning rate, then anneal to nearly zero.

    Args:
        optimizer: Its learning rate is the peak.
        total_steps: Optimizer steps of the whole run; set by the task.
        warmup: Share of the steps for the warm-up.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.2) -> None:
        peaks = [group["lr"] for group in optimizer.param_groups]
        super().__init__(optimizer, peaks, total_steps, pct_start=warmup)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a run.

        Raises:
            CheckpointError: if that run was planned for another number of steps.
        """
        if state_dict["total_steps"] != self.total_steps:
            raise CheckpointError(
                f"the run was planned for {state_dict['total_steps']} steps, now it would have "
                f"{self.total_steps}; resume it with the epochs and batches that it had, or train "
                "on from its weights by `dmn finetune --init_from last`"
            )
        super().load_state_dict(state_dict)


class ClassificationTask(pl.LightningModule):
    """Train and test an image classifier, with explainers for callbacks.

    Args:
        net: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        optimizer: Called with the parameters, e.g. `torch.optim.Adam` with its options.
        lr_scheduler: Called with the optimizer and the number of steps in the whole run, and
            stepped after each; e.g. `dmn.train.OneCycle`.
        explainers: Explainers used during training, by the name to log under; each is called with
            the network, e.g. `dmn.explain.SplitCAM` with its options.
        num_classes: Number of classes K.
        classes: A name for each class, for pictures and cards; None for their indices. On the
            command line these and their number follow from the data.
        label_smoothing: Share of the target spread over all classes.
        calibration: Whether to log the expected calibration error.
        channels_last: Keep images and convolutions in channels-last order, which is faster for
            most convolutions, especially on GPUs with mixed precision; results differ by rounding.
        layer_decay: Learning rate of each layer as a share of that of the layer above; the head
            has the optimizer's. Below 1 for fine-tuning, where low layers need little change.
        terms: Terms added to the training loss, by the name to log under, e.g.
            `dmn.train.Distillation` with its options.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerFactory = Adam,
        lr_scheduler: SchedulerFactory | None = None,
        explainers: dict[str, ExplainerFactory] | None = None,
        num_classes: int = 10,
        classes: list[str] | None = None,
        label_smoothing: float = 0.0,
        calibration: bool = False,
        channels_last: bool = False,
        layer_decay: float = 1.0,
        terms: dict[str, Term] | None = None,
    ) -> None:
        super().__init__()
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(memory_format=self._format)
        self.explainers = {
            name: make_explainer(net) for name, make_explainer in (explainers or {}).items()
        }
        if classes and len(classes) != num_classes:
            raise OptionError(f"{len(classes)} classes are named, but num_classes is {num_classes}")
        self.num_classes = num_classes
        self.classes = tuple(classes or map(str, range(num_classes)))
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self._label_smoothing, self._layer_decay = label_smoothing, layer_decay
        self._terms = terms
        metrics: dict[str, Metric | MetricCollection] = {
            "acc": MulticlassAccuracy(num_classes, average="micro")
        }
        if calibration:
            metrics["calibration_error"] = MulticlassCalibrationError(num_classes)
        collection = MetricCollection(metrics)
        self.metrics: Any = nn.ModuleDict(
            {
                f"{stage}_metrics": collection.clone(f"{stage}/")
                for stage in ("train", "val", "test")
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, C, H, W)."""
        logits: Tensor = self.net(x.contiguous(memory_format=self._format))
        return logits

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Return the loss of a batch of any type that `dmn.data.as_batch` takes, and log it."""
        return self._step(batch, batch_index, "train", self._label_smoothing, self._terms)

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Log the loss and metrics of a validation batch."""
        self._step(batch, batch_index, "val")

    def test_step(self, batch: Any, batch_index: int) -> None:
        """Log the loss and metrics of a test batch."""
        self._step(batch, batch_index, "test")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another network.

        Raises:
            CheckpointError: if weights do not fit; names the keys.
        """
        if faults := state_dict_mismatches(self.state_dict(), checkpoint["state_dict"]):
            raise CheckpointError(
                f"the checkpoint is of another network: {format_mismatches(faults)}"
            )

    def on_train_start(self) -> None:
        """Refuse the state of another optimizer, which would fail at its first step.

        Raises:
            CheckpointError: if the state lacks options of the optimizer; names them.
        """
        for optimizer in self.trainer.optimizers:
            groups = optimizer.param_groups
            if missing := [key for key in optimizer.defaults if any(key not in g for g in groups)]:
                raise CheckpointError(
                    f"the checkpoint is of another optimizer than {type(optimizer).__name__}: it "
                    f"has no {', '.join(missing)}; go on with the one that it had, or start from "
                    "its weights by `dmn finetune --init_from`"
                )

    def configure_optimizers(self) -> Any:
        """Return the optimizer, and the scheduler for the run's number of steps."""
        if self._layer_decay == 1:
            optimizer = self._optimizer(self.parameters())
        else:
            optimizer = layerwise(self._optimizer, self.net, self._layer_decay)
        if self._lr_scheduler is None:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self._lr_scheduler(optimizer, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _check_labels(self, labels: Tensor, batch_index: int) -> None:
        """Refuse labels that are no class; on a device that would have to wait, only at first."""
        if len(labels) == 0 or (batch_index and labels.device.type != "cpu"):
            return
        least, largest = int(labels.min()), int(labels.max())
        if not 0 <= least <= largest < self.num_classes:
            raise DataError(
                f"the data has labels from {least} to {largest}, the network classes from 0 to "
                f"{self.num_classes - 1}; set model.num_classes, and the outputs of the network"
            )

    def _check_logits(self, logits: Tensor, count: int) -> None:
        if logits.shape != (count, self.num_classes):
            raise OptionError(
                f"the network returns {tuple(logits.shape)} for {count} images, not one logit for "
                f"each of {self.num_classes} classes; change its number of outputs, or "
                "model.num_classes"
            )

    def _step(
        self,
        batch: Any,
        batch_index: int,
        stage: str,
        label_smoothing: float = 0.0,
        terms: Mapping[str, Term] | None = None,
    ) -> Tensor:
        batch = as_batch(batch)
        self._check_labels(batch.label, batch_index)
        logits = self(batch.image)
        self._check_logits(logits, len(batch.label))
        loss = F.cross_entropy(logits, batch.label, label_smoothing=label_smoothing)
        metrics = self.metrics[f"{stage}_metrics"]
        metrics.update(logits, batch.label)
        options: dict[str, Any] = {
            "on_step": False,
            "on_epoch": True,
            "batch_size": len(batch.label),
        }
        for name, term in (terms or {}).items():
            value = term(self.net, batch, logits)
            loss = loss + term.weight * value
            self.log(f"{stage}/{name}", value, sync_dist=True, **options)
        self.log(f"{stage}/loss", loss, sync_dist=True, **options)
        self.log_dict(metrics, **options)
        return loss
