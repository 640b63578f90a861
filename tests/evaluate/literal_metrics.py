"""Each metric once more, from its definition: one image, loops, float64.

`f` gives the logits (K,) of an image (C, H, W), `explain` the map (H, W) of an image and a class.
"""

import math
from itertools import pairwise

import numpy as np

from dmn.explain.draws import generators


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def area(curve):
    return sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)


def pixel_flipping(f, x, y, a, features, sign=-1):
    """Flip the pixels of most relevance first, all channels of each, `features` values a step.

    With sign 1 those of least relevance come first.
    """
    order = sorted(np.ndindex(a.shape), key=lambda at: sign * a[at])
    flipped, curve = x.copy(), []
    for start in range(0, len(order), features // len(x)):
        for i, j in order[start : start + features // len(x)]:
            flipped[:, i, j] = 0
        curve.append(softmax(f(flipped))[y])
    return area(curve)


def symmetric_relevance_gain(f, x, y, a, features):
    """Compare the areas when pixels of least and of most relevance are flipped first."""
    least, most = (pixel_flipping(f, x, y, a, features, sign) for sign in (1, -1))
    return least - most


def selectivity(f, x, y, a, side):
    """Flip patches of side x side pixels, of most summed relevance first."""
    corners = [(i, j) for i in range(0, len(a), side) for j in range(0, len(a[0]), side)]
    patches = [np.s_[i : i + side, j : j + side] for i, j in corners]
    flipped, curve = x.copy(), []
    for patch in sorted(patches, key=lambda at: -a[at].sum()):
        flipped[:, *patch] = 0
        curve.append(softmax(f(flipped))[y])
    return area(curve)


def faithfulness_correlation(f, x, y, a, runs, size, seed):
    """Correlate the sum of the map over a random subset with the fall of the logit without it."""
    maps, sums, patch_logit_drops = np.broadcast_to(a, x.shape).ravel(), [], []
    for run in range(runs):
        (rng,) = generators(x[None], seed, run)
        chosen = rng.choice(x.size, size, replace=False)
        without = x.ravel().copy()
        without[chosen] = 0
        sums.append(maps[chosen].sum())
        patch_logit_drops.append(f(x)[y] - f(without.reshape(x.shape))[y])
    return np.corrcoef(sums, patch_logit_drops)[0, 1]


def sensitivities(explain, x, y, a, samples, bound, seed):
    """How far noise moves the map, in units of the map's norm."""
    changes = []
    for sample in range(samples):
        (rng,) = generators(x[None], seed, sample)
        noisy = (x + rng.uniform(-bound, bound, x.size).reshape(x.shape)).astype(np.float32)
        changes.append(math.sqrt(((explain(noisy, y) - a) ** 2).sum() / (a**2).sum()))
    return changes


def pointing_game(a, mask):
    return float(mask.flat[a.argmax()])


def rank_accuracy(a, mask):
    order = sorted(range(a.size), key=lambda at: -a.flat[at])
    first = order[: int(mask.sum())]
    return sum(mask.flat[at] for at in first) / len(first)


def mass_accuracy(a, mask):
    return sum(abs(a.flat[at]) for at in np.flatnonzero(mask)) / abs(a).sum()


def localisation(a, mask):
    positive = np.maximum(a, 0)
    return sum(positive.flat[at] for at in np.flatnonzero(mask)) / positive.sum()


def grid_share(explain, images, classes, index):
    """The share of the map of one tile's class that lies in this tile, of a 2 x 2 mosaic."""
    mosaic = np.block([[images[0], images[1]], [images[2], images[3]]])
    positive = np.maximum(explain(mosaic, classes[index]), 0)
    height, width = images[0].shape[1:]
    i, j = divmod(index, 2)
    own = positive[i * height : (i + 1) * height, j * width : (j + 1) * width]
    return own.sum() / positive.sum()


def gini(a):
    """Half the mean absolute difference of all pairs, by the mean."""
    values = abs(a).ravel()
    return abs(values[:, None] - values).mean() / values.mean() / 2


def entropy(a):
    shares = abs(a).ravel() / abs(a).sum()
    return -sum(share * math.log(share) for share in shares)


def other_class(x, y, classes, seed):
    (rng,) = generators(x[None], seed)
    return [k for k in range(classes) if k != y][rng.integers(classes - 1)]


def similarity(a, b):
    """Structural similarity of flat maps by windows of 7, each divided by its largest value."""
    a, b = a.ravel() / abs(a).max(), b.ravel() / abs(b).max()
    spread = max(a.max(), b.max()) - min(a.min(), b.min())
    small, smaller = (0.01 * spread) ** 2, (0.03 * spread) ** 2
    values = []
    for at in range(a.size - 6):
        p, q = a[at : at + 7], b[at : at + 7]
        (pp, pq), (_, qq) = np.cov(p, q)
        means = (2 * p.mean() * q.mean() + small) / (p.mean() ** 2 + q.mean() ** 2 + small)
        values.append(means * (2 * pq + smaller) / (pp + qq + smaller))
    return sum(values) / len(values)


def completeness_gap(f, x, y, a):
    change = f(x)[y] - f(np.zeros_like(x))[y]
    return abs(a.sum() - change) / abs(change)
