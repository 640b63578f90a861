"""Training of an image classifier: loss, accuracy, optimizer; the network is plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from dmn.data import as_batch
from dmn.errors import CheckpointError, DataError, DmnError, OptionError
from dmn.explain import Explainer
from dmn.io.text import one_line, size_text
from dmn.io.weights import format_mismatches, state_dict_mismatches, truncate
from dmn.train.groups import layerwise
from dmn.train.schedule import (
    SchedulerFactory,
    check_same_steps,
    make_schedule,
    planned_steps,
    steps_in_checkpoint,
)
from dmn.train.terms import Term

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
ExplainerFactory = Callable[[Any], Explainer]
Loss = Literal["cross_entropy", "binary_cross_entropy"]


class ClassificationTask(pl.LightningModule):
    """Train and test an image classifier, with explainers for callbacks.

    Args:
        net: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
        optimizer: Called with the parameters, e.g. `torch.optim.Adam` with its options.
        lr_scheduler: Called with the optimizer and the number of steps in the whole run, and
            stepped after each step; e.g. `dmn.train.OneCycle`.
        explainers: Explainers used during training, by the name to log under; each is called with
            the network, e.g. `dmn.explain.SplitCAM` with its options.
        num_classes: Number of classes K.
        classes: A name for each class, for pictures and cards; None for their indices. On the
            command line the names and their number follow from the data.
        loss: "cross_entropy" of the softmax, or "binary_cross_entropy", the sum over the classes of
            that of each logit's sigmoid, whose logits say how sure the network is of each class
            by itself.
        label_smoothing: Share of the target that is spread over all classes.
        calibration: Whether to log the expected calibration error.
        channels_last: Keep images and convolutions in channels-last order, which is faster for most
            convolutions, especially on GPUs with mixed precision; results differ by rounding.
        layer_decay: Learning rate of each layer as a share of that of the layer above; the head has
            the optimizer's. Choose it below 1 for fine-tuning, where low layers need little change.
        terms: Terms added to the training loss, by the name to log under, e.g.
            `dmn.train.Distillation` with its options.

    Raises:
        OptionError: if `classes` are not as many as `num_classes`, or there is no such loss.

    Examples:
        >>> from functools import partial
        >>> import torch
        >>> from dmn.explain import SplitCAM
        >>> from dmn.models import DifferenceOfMonotone, MonotoneMLP
        >>> from dmn.train import ClassificationTask
        >>> g, h = (MonotoneMLP(2 * 28 * 28, hidden=(16,)) for _ in range(2))
        >>> task = ClassificationTask(
        ...     DifferenceOfMonotone(g, h, margin=0),
        ...     optimizer=partial(torch.optim.Adam, lr=0.01),
        ...     explainers={"splitcam": partial(SplitCAM, layer="input")},
        ... )
        >>> task.explainers["splitcam"](torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerFactory = Adam,
        lr_scheduler: SchedulerFactory | None = None,
        explainers: dict[str, ExplainerFactory] | None = None,
        num_classes: int = 10,
        classes: list[str] | None = None,
        loss: Loss = "cross_entropy",
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
        if loss not in _LOSSES:
            raise OptionError(f"there is no loss {loss!r}; give one of {', '.join(_LOSSES)}")
        self._loss, self._label_smoothing = _LOSSES[loss], label_smoothing
        self._layer_decay = layer_decay
        self._terms = terms
        self._planned_steps: int | None = None
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the names of the classes with the weights, and the steps the schedule is for."""
        checkpoint["classes"] = list(self.classes)
        if self._planned_steps is not None:
            checkpoint["planned_steps"] = self._planned_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another network or of other classes; note its planned steps.

        Raises:
            CheckpointError: if weights do not fit; names the keys. If the classes have other names.
        """
        known = tuple(checkpoint.get("classes", self.classes))
        unnamed = tuple(map(str, range(self.num_classes)))
        if known != self.classes and unnamed not in (known, self.classes):
            raise CheckpointError(
                "the checkpoint is of a network for other classes "
                f"({_difference(known, self.classes)}); give it data with its classes, or train on "
                "from its weights by `dmn finetune --init_from`"
            )
        if faults := state_dict_mismatches(self.state_dict(), checkpoint["state_dict"]):
            raise CheckpointError(
                f"the checkpoint is of another network: {format_mismatches(faults)}"
            )
        self._planned_steps = steps_in_checkpoint(checkpoint)

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
        """Return the optimizer, and the scheduler for the run's number of steps.

        Raises:
            OptionError: if the run has no steps or no end, or the scheduler takes none.
            CheckpointError: if a run is resumed that was planned for another number of steps.
        """
        if self._layer_decay == 1:
            optimizer = self._optimizer(self.parameters())
        else:
            optimizer = layerwise(self._optimizer, self.net, self._layer_decay)
        if self._lr_scheduler is None:
            return optimizer
        steps = planned_steps(self.trainer)
        check_same_steps(self._planned_steps, steps)
        self._planned_steps = steps
        scheduler = make_schedule(self._lr_scheduler, optimizer, steps)
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

    def _try(self, image: Tensor) -> Tensor:
        try:
            logits: Tensor = self(image)
        except (DmnError, torch.OutOfMemoryError):
            raise
        except (RuntimeError, ValueError, IndexError) as error:  # of layers that shapes do not fit
            raise OptionError(
                f"the network fails at images of size {size_text(image.shape[1:])}: "
                f"{one_line(error)}; change data.size or data.channels, or the network"
            ) from error
        return logits

    def _check_logits(self, logits: Tensor, count: int) -> None:
        if logits.shape != (count, self.num_classes):
            raise OptionError(
                f"the network returns {tuple(logits.shape)} for {count} images, not one logit for "
                f"each of {self.num_classes} classes; change its number of outputs, or "
                "model.num_classes"
            )

    def _progress(self) -> float:
        """Return the share of the run's steps that are done; 1 if it has no end."""
        steps = self.trainer.estimated_stepping_batches
        return min(1.0, self.trainer.global_step / steps) if 0 < steps < math.inf else 1.0

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
        logits = self._try(batch.image)
        self._check_logits(logits, len(batch.label))
        loss = self._loss(logits, batch.label, label_smoothing=label_smoothing)
        metrics = self.metrics[f"{stage}_metrics"]
        metrics.update(logits, batch.label)
        options: dict[str, Any] = {
            "on_step": False,
            "on_epoch": True,
            "batch_size": len(batch.label),
        }
        for name, term in (terms or {}).items():
            term.progress = self._progress()
            value = term(self.net, batch, logits)
            loss = loss + term.weight * value
            self.log(f"{stage}/{name}", value, sync_dist=True, **options)
        self.log(f"{stage}/loss", loss, sync_dist=True, **options)
        self.log_dict(metrics, **options)
        return loss


def _binary_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Return the sum over the classes of each logit's loss, averaged over the batch."""
    classes = logits.shape[1]
    targets = F.one_hot(labels, classes) * (1 - label_smoothing) + label_smoothing / classes
    losses = F.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="none")
    return losses.sum(dim=1).mean()


_LOSSES: Mapping[Loss, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
}


def _difference(known: tuple[str, ...], own: tuple[str, ...]) -> str:
    """Return what differs between the names in a checkpoint and a network's own."""
    names = {
        "only in the checkpoint": [name for name in known if name not in own],
        "only here": [name for name in own if name not in known],
    }
    parts = [f"{where}: {truncate(found)}" for where, found in names.items() if found]
    return "; ".join(parts) or "the same names in another order"
