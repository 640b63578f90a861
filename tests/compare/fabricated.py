"""A comparison of eight entries that nobody ran: all metrics, some images dropped."""

import json
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import torch

from dmn.compare.report import Gallery
from dmn.compare.summary import summarise
from dmn.evaluate import METRICS

IMAGES = 20
ENTRIES = {  # (network, method, kind): how good, in [0, 1]
    ("dmn-resnet", "SplitCAM", "self"): 0.8,
    ("dmn-resnet", "SplitLRP", "self"): 0.7,
    ("resnet18", "SplitCAM", "post-hoc"): 0.75,
    ("resnet18", "Grad-CAM", "post-hoc"): 0.5,
    ("resnet18", "IntegratedGradients", "post-hoc"): 0.4,
    ("vgg16", "LRPEpsilonPlus", "post-hoc"): 0.55,
    ("resnet18", "random map", "control"): 0.05,
    ("resnet18", "centre map", "control"): 0.3,
}
FAILED = "RuntimeError: <b>no</b> mosaic fits | the network"


@dataclass
class Comparison:
    scores: pd.DataFrame
    cells: pd.DataFrame
    settings: dict
    gallery: Gallery
    curves: dict


def fabricate(names=ENTRIES, metrics=METRICS):
    """Fabricate scores; the third entry has dropped images, the fourth fails at one metric."""
    random = np.random.default_rng(0)
    scores, cells, settings, maps, curves = [], [], {}, {}, {}
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    easy = random.normal(0, 0.1, IMAGES)
    for place, ((network, method, kind), good) in enumerate(names.items()):
        entry = f"{network} {method}"
        settings[entry] = {"layer": f"layer{place}", "alpha": 0.4}
        base = {"entry": entry, "network": network, "method": method, "kind": kind}
        base["setting"] = json.dumps(settings[entry])
        blob = torch.linspace(-2, 2, 32).sub(place / 8).pow(2)
        maps[entry] = (1 - blob[:, None] - blob[None]).expand(4, 1, 32, 32).clone()
        start = random.uniform(0.8, 1, (IMAGES, 1))
        curves[entry] = start * np.exp(-np.linspace(0, 4 * good, 17))
        for split in ("validation", "test"):
            base["split"] = split
            timed = {"n": IMAGES, "dropped": 0, "reasons": "", "seconds": 0.02 * 3**place}
            cells.append({**base, "metric": "Explanation", **timed})
            for metric, spec in ((name, METRICS[name]) for name in metrics):
                sign = 1 if spec.higher_is_better else -1
                values = 0.5 + sign * (good - 0.5) / 2 + easy + random.normal(0, 0.05, IMAGES)
                values = values * (200 if spec.range[1] == np.inf else 1)
                reasons = [""] * IMAGES
                if place == 2:
                    reasons[:3] = ["map is constant"] * 3
                if place == 3 and metric == "RandomLogit":
                    reasons = [FAILED] * IMAGES
                values[[reason != "" for reason in reasons]] = np.nan
                rows = zip(values, reasons, strict=True)
                scores += [
                    {**base, "metric": metric, "image": image, "value": value, "reason": reason}
                    for image, (value, reason) in enumerate(rows)
                ]
                counts = pd.Series([r for r in reasons if r], dtype=object).value_counts()
                said = "; ".join(f"{count}x {reason}" for reason, count in counts.items())
                dropped = int(counts.sum())
                cell = {"n": IMAGES - dropped, "dropped": dropped, "reasons": said, "seconds": 1.0}
                cells.append({**base, "metric": metric, **cell})
    rivals = Gallery(
        images, [f"why {n}, not 9?" for n in range(4)], {e: -each for e, each in maps.items()}
    )
    rows = [f"class {row}, said {row}" for row in range(4)]
    gallery = Gallery(images, rows, maps, range(4), rivals)
    return Comparison(pd.DataFrame(scores), pd.DataFrame(cells), settings, gallery, curves)


@cache
def usual():
    """The usual comparison and its summary, made once for all that only read them."""
    made = fabricate()
    return made, summarise(made.scores, made.cells)
