"""The guarded call of Quantus: one bad map, or one failing metric, costs only itself.

Quantus 0.6 aborts a whole batch over one degenerate map, draws from the global random state, and
keeps the model alive in a cache.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmn.evaluate.metrics import METRICS, MetricSpec
from dmn.explain import Explainer
from dmn.explain.stream import explaining

Array = NDArray[Any]


@dataclass
class Scores:
    """What a metric said of one explainer's maps.

    Attributes:
        values: One score an image, NaN where there is none, (N,).
        remarks: Why images were dropped, or scored by rule → number of images.
        seconds: Time spent.
    """

    values: Array
    remarks: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def n(self) -> int:
        """How many images have a score."""
        return int(np.isfinite(self.values).sum())

    @property
    def mean(self) -> float:
        """Mean over the images that have a score; NaN if none has."""
        return float(np.nanmean(self.values)) if self.n else float("nan")


def score(
    metric: str,
    model: nn.Module,
    explainer: Explainer,
    x: Tensor,
    y: Tensor,
    masks: Tensor | None = None,
    maps: Tensor | None = None,
    seed: int = 0,
) -> Scores:
    """Score an explainer's maps of some images by one metric; never raises for what it scores.

    Args:
        metric: A key of `METRICS`.
        model: The classifier (B, C, H, W) → logits (B, K); held in eval mode meanwhile.
        explainer: Called again by the metrics that perturb images or classes.
        x: Images (N, C, H, W).
        y: The classes explained, (N,).
        masks: Where the evidence ought to be, 0 or 1, (N, 1, H, W); for localisation.
        maps: The maps, if they have been made already, (N, 1, H, W).
        seed: Of the metric's own draws; the global random state is left as it was.

    Raises:
        KeyError: if there is no such metric.
    """
    spec = METRICS[metric]
    start = time.perf_counter()
    result = Scores(np.full(len(x), np.nan))
    with explaining(model), _own_randomness(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each pixel flip that changes nothing
        try:
            maps = explainer(x, y) if maps is None else maps
            kept = _keep(spec, maps, masks, result)
            if len(kept):
                classes = model(x[:1]).shape[-1]
                call = _Call(spec, model, explainer, x, y, masks, maps, classes)
                _score_kept(call, kept, result)
        except Exception as error:  # whatever explainers and Quantus raise, training goes on
            result.remarks[_reason(error)] += len(x) - result.n
        finally:
            _forget_models()
    result.seconds = time.perf_counter() - start
    return result


def _keep(spec: MetricSpec, maps: Tensor, masks: Tensor | None, result: Scores) -> Array:
    """Return the indices of images that Quantus can score; remark on the others."""
    flat = maps.detach().flatten(1).cpu()
    finite = flat.isfinite().all(1)
    constant = finite & (flat == flat[:, :1]).all(1)
    faults = {
        "map is not finite": ~finite,
        "map is constant": constant,
        "map is nowhere positive": finite & ~constant & (flat <= 0).all(1),
    }
    if spec.needs_mask:
        empty = torch.ones(len(flat)) if masks is None else 1 - masks.flatten(1).amax(1).cpu()
        faults["no mask" if masks is None else "mask is empty"] = empty.bool()
    bad = torch.zeros(len(flat), dtype=torch.bool)
    for reason, rows in faults.items():
        fresh = rows & ~bad
        bad |= rows
        if spec.constant_score is not None and reason == "map is constant":
            result.values[fresh.numpy()] = spec.constant_score
            reason += f", scored {spec.constant_score:g}"
        if count := int(fresh.sum()):
            result.remarks[reason] += count
    return (~bad).nonzero().flatten().numpy()


@dataclass(frozen=True)
class _Call:
    """One metric's question, to be put for any subset of the images."""

    spec: MetricSpec
    model: nn.Module
    explainer: Explainer
    x: Tensor
    y: Tensor
    masks: Tensor | None
    maps: Tensor
    classes: int

    def __call__(self, rows: Array) -> list[float]:
        shape: tuple[int, int, int] = tuple(self.x.shape[1:])  # type: ignore[assignment]
        metric = self.spec.build(shape, self.classes)
        chosen = torch.from_numpy(rows)
        results = metric(
            model=self.model,
            x_batch=_numpy(self.x[chosen]),
            y_batch=_numpy(self.y[chosen]),
            a_batch=_numpy(self._prepare(self.maps[chosen])),
            s_batch=None if self.masks is None else _numpy(self.masks[chosen]),
            channel_first=True,
            explain_func=self._explain,
            softmax=True,
            device=str(self.x.device),
            batch_size=len(rows),
        )
        return [self.spec.finish(value) for value in results]

    def _explain(self, model: Any, inputs: Array, targets: Array, **_: Any) -> Array:
        x = torch.as_tensor(np.ascontiguousarray(inputs), dtype=self.x.dtype, device=self.x.device)
        y = torch.as_tensor(targets, device=self.x.device)
        return _numpy(self._prepare(self.explainer(x, y)))

    def _prepare(self, maps: Tensor) -> Tensor:
        if not self.spec.normalise:
            return maps
        return maps / maps.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)


def _score_kept(call: _Call, kept: Array, result: Scores) -> None:
    """Score all kept images at once or, where that fails, one by one."""
    try:
        result.values[kept] = call(kept)
        return
    except Exception:
        if len(kept) == 1:
            raise
    for row in kept:
        try:
            result.values[row] = call(np.array([row]))[0]
        except Exception as error:
            result.remarks[_reason(error)] += 1


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _numpy(values: Tensor) -> Array:
    return values.detach().cpu().numpy().copy()  # Quantus adds to maps in place


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed numpy's and torch's global generators, and put them back afterwards."""
    state = np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
    finally:
        np.random.set_state(state)


def _forget_models() -> None:
    """Empty the caches by which Quantus keeps every model it has seen alive."""
    from quantus.helpers.model.pytorch_model import PyTorchModel

    for method in ("_get_last_softmax_layer_index", "_get_model_with_linear_top"):
        getattr(PyTorchModel, method).cache_clear()
