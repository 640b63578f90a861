"""Does a map change when the network's weights are randomised?

A map that looks the same for a network with random weights does not show what the network learned.

Source: Adebayo et al. 2018, "Sanity checks for saliency maps".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from dmn.evaluate.batch import ExplainedBatch, Scores
from dmn.evaluate.rank import rank_correlation
from dmn.evaluate.shuffle import layer_blocks, randomise

BINS = 100  # of a histogram of a map's values, Quantus' default

Similarity = Callable[[Tensor, Tensor], Tensor]


def unsigned_rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the magnitude of the rank correlation of maps (B, 1, H, W), (B,).

    Where a random logit is negative, relevance keeps its pattern and only changes its sign.
    """
    return rank_correlation(a, b).abs()


def top_down(batch: ExplainedBatch, similarity: Similarity) -> Scores:
    """Return how similar maps are to those of networks randomised from the output down, in mean.

    The network is randomised to up to 5 evenly spaced depths, of which the last is the whole
    network. A method that ignores the network scores 1 (and so do all controls, as their maps
    depend on the image and the class only), one whose maps are independent noise for every network
    about .8 / sqrt(N) by rank correlation, where a map has N pixels.

    High layers alone leave the activations below as they are, so a method that is right to show
    where these are large cannot score 0 (Binder et al. 2023).

    Args:
        batch: The images.
        similarity: Of maps (B, 1, H, W), (B,).
    """
    blocks = layer_blocks(batch.model, batch.x[:1])
    depths = [[*chain(*blocks[-count:])] for count in range(1, len(blocks) + 1)]
    return _mean_similarity(batch, depths, similarity)


def independent(batch: ExplainedBatch, similarity: Similarity) -> Scores:
    """Return the mean similarity of maps to those of networks of which one part is randomised.

    The parts are the up to 5 between the depths of `top_down`, each randomised alone.

    Args:
        batch: The images.
        similarity: Of maps (B, 1, H, W), (B,).
    """
    return _mean_similarity(batch, layer_blocks(batch.model, batch.x[:1]), similarity)


def entropy_rise(batch: ExplainedBatch) -> Scores:
    """Return by how much the entropy of the map's histogram rises for a random network, relatively.

    The histogram has 100 bins between the map's least and greatest value. A method that ignores the
    network scores 0, and so does one whose maps are noise for every network, in mean. It tells
    whether maps of the trained network are simpler, not whether they are right; a map with few
    values other than zero has little entropy, and may rise many times over.

    Quantus chooses the bins by all images together, and divides by zero for a constant map. Here a
    constant map has no score, unless it is constant for the random network, too, and scores 0. A
    map that is constant for the random network only, as Grad-CAM's where nothing speaks for the
    class, scores -1.

    Source: Hedström, Weber, Lapuschkin & Höhne 2024, "A fresh look at sanity checks for saliency
    maps", efficient model parameter randomisation test.
    """
    everything = chain(*layer_blocks(batch.model, batch.x[:1]))
    changed = _maps_of_randomised(batch, everything)
    before, after = histogram_entropy(batch.maps), histogram_entropy(changed)
    rise = torch.where(after == before, 0.0, (after - before) / before)
    scores = _scores(torch.where(_finite(changed), rise, torch.nan))
    scores.note(((before == 0) & (after > 0)).nonzero().flatten().tolist(), "map is constant")
    scores.values[[reason == "map is constant" for reason in scores.reasons]] = np.nan
    return scores


def histogram_entropy(maps: Tensor) -> Tensor:
    """Return the entropy of each map's histogram in nats, (B,), float64."""
    flat = maps.flatten(1).double()
    low, high = flat.aminmax(dim=1, keepdim=True)
    scaled = (flat - low) / (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    bins = (BINS * scaled).nan_to_num().long().clamp(0, BINS - 1)
    counts = torch.zeros(len(flat), BINS, dtype=torch.float64, device=flat.device)
    counts.scatter_add_(1, bins, torch.ones_like(flat))
    entropy: Tensor = torch.special.entr(counts / flat.shape[1]).sum(dim=1)
    return entropy


def _mean_similarity(
    batch: ExplainedBatch, parts: Sequence[Iterable[str]], similarity: Similarity
) -> Scores:
    values = [similarity(batch.maps, _maps_of_randomised(batch, names)) for names in parts]
    return _scores(torch.stack(values).mean(dim=0))


def _maps_of_randomised(batch: ExplainedBatch, names: Iterable[str]) -> Tensor:
    """Explain the same classes of the same images for a network with randomised layers."""
    changed = batch.change(randomise(batch.model, names, batch.seed).eval(), batch.x[:1])
    return changed.explain(batch.x, batch.y)


def _finite(maps: Tensor) -> Tensor:
    return maps.flatten(1).isfinite().all(dim=1)


def _scores(values: Tensor) -> Scores:
    scores = Scores(values.cpu().numpy())
    bad = np.flatnonzero(np.isnan(scores.values))
    scores.note(bad, "map of a randomised network is not finite")
    return scores
