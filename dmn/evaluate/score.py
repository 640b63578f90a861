"""Score maps; a bad map or a failing metric does not affect the others."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from dmn.errors import DataError
from dmn.evaluate.batch import Array, ExplainedBatch, Remake, Scores
from dmn.evaluate.metrics import metric_specs
from dmn.evaluate.spec import MetricSpec
from dmn.explain import Explainer
from dmn.explain.target import Target, class_indices, class_names
from dmn.nn import eval_mode


def score(
    metrics: str | Iterable[str],
    model: nn.Module,
    explainer: Explainer,
    x: Tensor,
    y: Target,
    masks: Tensor | Array | None = None,
    seed: int = 0,
    *,
    batch_size: int = 64,
    seconds: float | None = None,
    remake: Remake | None = None,
) -> dict[str, Scores]:
    """Score an explainer's maps of images; a failure is recorded as the reason, not raised.

    A score depends on its image, mask and class and on the seed, but not on other images. The
    exception is the grid pointing game, which joins several images.

    Args:
        metrics: Keys of `METRICS`, or one of them.
        model: The classifier, from images (B, C, H, W) to logits (B, K) in a form that
            `dmn.nn.pick_logits` knows. It is scored in eval mode. The probability of a single logit
            is its sigmoid, and its class is 0.
        explainer: Called once for the maps, and again by metrics that perturb images or classes.
        x: Images (N, C, H, W).
        y: The explained classes, (N,), a tensor, array or list as for an explainer.
        masks: Where the evidence should be, 0 or 1, (N, 1, H, W), a tensor or an array; needed by
            localisation metrics.
        seed: For the random numbers of the metrics, at least 0. The global state is restored.
        batch_size: The most images at once, which limits the memory.
        seconds: Time limit per metric; images left over have no score. None for no limit.
        remake: Makes the same explainer for another network: from the network, in eval mode, and an
            example of its images (1, C, H, W). Metrics that change the network need it.

    Returns:
        The scores by metric.

    Raises:
        UnknownNameError: if a metric does not exist; lists those that do.
        TargetError: if there is not one class per image, or a class is not an index.
        DataError: if images are not a tensor (N, C, H, W), or masks have another shape.

    Examples:
        >>> from dmn.baselines import InputXGradient
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> x = torch.rand(8, 1, 2, 2)
        >>> scores = score("Completeness", net, InputXGradient(net), x, net(x).argmax(dim=1))
        >>> scores["Completeness"].n, round(scores["Completeness"].mean, 4)
        (8, 0.0)
    """
    specs = metric_specs(metrics)
    if not isinstance(x, Tensor):
        raise DataError(f"images are of type {type(x).__name__}; give a tensor (N, C, H, W)")
    if x.dim() != 4:
        raise DataError(f"images have the shape {tuple(x.shape)}; metrics are of (N, C, H, W)")
    unknown = torch.full((len(x), 1, *x.shape[-2:]), math.nan, device=x.device)
    if masks is not None:
        masks = torch.as_tensor(masks, dtype=torch.float32, device=x.device)
        if masks.shape != unknown.shape:
            shapes = f"{tuple(masks.shape)}, of images {tuple(x.shape)}"
            raise DataError(f"masks of shape {shapes}; {tuple(unknown.shape)} would do")
    batch = ExplainedBatch(
        model, explainer, x, class_indices(x, y, class_names(model)), masks, unknown, seed, remake
    )
    explained = Scores(np.full(len(x), np.nan))

    def explain(rows: Array) -> None:
        part = batch.take(rows)
        batch.maps[torch.from_numpy(rows)] = batch.explain(part.x, part.y)

    with eval_mode(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each pixel flip that changes nothing
        _in_batches(explain, np.arange(len(x))[:, None], explained, seed, batch_size)
        return {
            name: _score(spec, batch, explained.reasons, batch_size, seconds)
            for name, spec in specs.items()
        }


def _score(
    spec: MetricSpec,
    batch: ExplainedBatch,
    reasons: list[str],
    batch_size: int,
    seconds: float | None,
) -> Scores:
    """Compute one metric; the reasons say which images have no map."""
    start = time.perf_counter()
    result = Scores(np.full(len(batch.x), np.nan))

    def measure(rows: Array) -> None:
        result.put(rows, spec.measure(batch.take(rows)))

    try:
        if spec.arrange:
            groups = spec.arrange(batch, result)
        else:
            result.reasons = list(reasons)
            groups = _scorable(spec, batch, result)[:, None]
        _in_batches(measure, groups, result, batch.seed, batch_size, seconds)
    except Exception as error:  # of the model, while images are arranged
        result.note(np.arange(len(batch.x)), _reason(error))
    result.seconds = time.perf_counter() - start
    return result


def _in_batches(
    work: Callable[[Array], None],
    groups: Array,
    result: Scores,
    seed: int,
    batch_size: int,
    seconds: float | None = None,
) -> None:
    """Process groups of images (G, size) in batches or, where a batch fails, group by group."""
    deadline = math.inf if seconds is None else time.perf_counter() + seconds
    at_once = max(
        1, batch_size // groups.shape[1] ** 2
    )  # a mosaic of n images is explained n times
    batches = deque(groups[start : start + at_once] for start in range(0, len(groups), at_once))
    while batches:
        batch = batches.popleft()
        rows = batch.flatten()
        if time.perf_counter() >= deadline:
            result.note(rows, f"budget of {seconds:g} s was spent")
            continue
        try:
            with _seeded(seed):
                work(rows)
        except Exception as error:  # whatever an explainer raises, training continues
            if len(batch) > 1:
                batches.extendleft(np.split(batch, len(batch))[::-1])
            else:
                result.note(rows, _reason(error))


def _scorable(spec: MetricSpec, batch: ExplainedBatch, result: Scores) -> Array:
    """Return the indices of images that a metric can score; record why not the others."""
    flat, masks = batch.maps.flatten(1), batch.masks
    faults = {"map is not finite": ~flat.isfinite().all(1)}
    if not spec.any_map:
        faults["map is constant"] = (flat == flat[:, :1]).all(1)
        faults["map is nowhere positive"] = (flat <= 0).all(1)
    if spec.needs_mask and masks is None:
        faults["no mask"] = torch.ones_like(faults["map is not finite"])
    elif spec.needs_mask and masks is not None:
        pixels = masks.flatten(1)
        faults["mask is empty"] = (pixels == 0).all(1)
        if not spec.signed_mask:
            faults["mask is not of 0 and 1"] = ((pixels != 0) & (pixels != 1)).any(1)
    for reason, bad in faults.items():
        newly_dropped = [row for row in bad.nonzero().flatten().tolist() if not result.reasons[row]]
        if spec.constant_score is not None and reason == "map is constant":
            result.values[newly_dropped] = spec.constant_score
            reason += f", scored {spec.constant_score:g}"
        result.note(newly_dropped, reason)
    return np.array([row for row, reason in enumerate(result.reasons) if not reason], dtype=int)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of numpy and torch, and restore them afterwards."""
    state = np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed)
            yield
    finally:
        np.random.set_state(state)
