"""The guarded call of Quantus: one bad map, or one failing metric, costs only itself.

Quantus 0.6 aborts a whole batch over one degenerate map, draws from the global random state, and
keeps the model alive in a cache.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmn.evaluate.metrics import MetricSpec, forget_models, metric_specs
from dmn.explain import Explainer
from dmn.explain.stream import eval_mode

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
    metrics: Iterable[str],
    model: nn.Module,
    explainer: Explainer,
    x: Tensor,
    y: Tensor,
    masks: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Scores]:
    """Score an explainer's maps of some images; what fails is remarked on, never raised.

    Args:
        metrics: Keys of `METRICS`.
        model: The classifier (B, C, H, W) → logits (B, K); held in eval mode meanwhile.
        explainer: Called once for the maps, and again by metrics that perturb images or classes.
        x: Images (N, C, H, W).
        y: The classes explained, (N,).
        masks: Where the evidence ought to be, 0 or 1, (N, 1, H, W); for localisation.
        seed: Of the metrics' own draws; the global random state is left as it was.

    Returns:
        The scores by metric.

    Raises:
        UnknownMetricError: names the metrics that there are.
    """
    specs = metric_specs(metrics)
    with eval_mode(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each pixel flip that changes nothing
        try:
            maps = explainer(x, y)
            call = _Call(model, explainer, x, y, masks, maps, classes=model(x[:1]).shape[-1])
        except Exception as error:  # whatever an explainer raises, training goes on
            unscored = np.full(len(x), np.nan)
            return {name: Scores(unscored, Counter({_reason(error): len(x)})) for name in specs}
        return {name: _score(spec, call, seed) for name, spec in specs.items()}


@dataclass(frozen=True)
class _Call:
    """What every metric is asked about, to be put for any subset of the images."""

    model: nn.Module
    explainer: Explainer
    x: Tensor
    y: Tensor
    masks: Tensor | None
    maps: Tensor
    classes: int

    def __call__(self, spec: MetricSpec, rows: Array) -> list[float]:
        def explain(model: Any, inputs: Array, targets: Array, **_: Any) -> Array:
            images = torch.as_tensor(np.ascontiguousarray(inputs)).to(self.x)
            return _numpy(
                _prepare(self.explainer(images, torch.as_tensor(targets).to(self.y)), spec)
            )

        shape: tuple[int, int, int] = tuple(self.x.shape[1:])  # type: ignore[assignment]
        chosen = torch.from_numpy(rows)
        results = spec.build(shape, self.classes)(
            model=self.model,
            x_batch=_numpy(self.x[chosen]),
            y_batch=_numpy(self.y[chosen]),
            a_batch=_numpy(_prepare(self.maps[chosen], spec)),
            s_batch=None if self.masks is None else _numpy(self.masks[chosen]),
            channel_first=True,
            explain_func=explain,
            softmax=True,
            device=str(self.x.device),
            batch_size=len(rows),
        )
        return [spec.finish(value) for value in results]


def _score(spec: MetricSpec, call: _Call, seed: int) -> Scores:
    """Score all images that can be at once or, where that fails, one by one."""
    start = time.perf_counter()
    result = Scores(np.full(len(call.x), np.nan))
    kept = _keep(spec, call, result)
    with _own_randomness(seed):
        try:
            if len(kept):
                _record(call(spec, kept), kept, result)
        except Exception:
            for row in kept:
                _score_one(spec, call, row, result)
        finally:
            forget_models()
    result.seconds = time.perf_counter() - start
    return result


def _score_one(spec: MetricSpec, call: _Call, row: int, result: Scores) -> None:
    rows = np.array([row])
    try:
        _record(call(spec, rows), rows, result)
    except Exception as error:
        result.remarks[_reason(error)] += 1


def _record(values: list[float], rows: Array, result: Scores) -> None:
    result.values[rows] = values
    if missing := int(np.isnan(result.values[rows]).sum()):
        result.remarks["Quantus gave NaN"] += missing


def _keep(spec: MetricSpec, call: _Call, result: Scores) -> Array:
    """Return the indices of images that Quantus can score; remark on the others."""
    masks = call.masks
    flat = call.maps.flatten(1).cpu()
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


def _prepare(maps: Tensor, spec: MetricSpec) -> Tensor:
    """Divide each map by its own largest absolute value, where the metric asks for it."""
    if not spec.normalise:
        return maps
    return maps / maps.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)


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
