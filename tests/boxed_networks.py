"""Small networks of every kind that can be bounded, in float64, and random boxes."""

import torch
from small_pairs import fronted_pair, randomise, tiny_pair

from dmn.models import MonotoneConvNet, MonotoneMLP, MonotoneResNet, PlainCNN, ResNet18

DIFFERENCES = [
    (inputs, activation)
    for inputs in ("inverted", "paired", "opposed", "plain")
    for activation in ("convex", "convex_concave", "saturating")
]


def _ready(net):
    return randomise(net).double().eval()


NETWORKS = {
    "monotone": lambda: _ready(MonotoneConvNet(1, (4, 6), 1, grid=2, num_classes=3)),
    "perceptron": lambda: _ready(MonotoneMLP(64, (8, 6), 3, "convex_concave")),
    "monotone ResNet": lambda: _ready(
        MonotoneResNet(1, 4, (1, 1), "tiny", num_classes=3, pool="max_min")
    ),
    **{
        f"{inputs} {activation}": lambda inputs=inputs, activation=activation: tiny_pair(
            inputs, activation=activation, residual=True
        )
        for inputs, activation in DIFFERENCES
    },
    "reparametrised": lambda: tiny_pair("inverted", constraint="softplus"),
    "unconstrained": lambda: tiny_pair("paired", constraint="none"),
    "fronted": fronted_pair,
    "PlainCNN": lambda: _ready(PlainCNN(1, (4, 6), grid=1, num_classes=3)),
    "ResNet18": lambda: _ready(ResNet18(3, width=3, stem="small", in_channels=1)),
}
EXACT = {
    *("monotone", "perceptron", "monotone ResNet", "reparametrised"),
    *(name for name in NETWORKS if name.startswith("inverted")),
}


def image_shape(name):
    return {"fronted": (3, 16, 16), "ResNet18": (1, 16, 16)}.get(name, (1, 8, 8))


def random_box(shape, boxes=20, dtype=torch.float64):
    """Draw boxes of all sizes; in some, some pixels cannot change."""
    x = torch.rand(boxes, *shape, dtype=dtype)
    size = torch.rand(boxes, 1, 1, 1, dtype=dtype).square()
    below, above = (torch.rand_like(x) * size * (torch.rand_like(x) > 0.2) for _ in range(2))
    return x - below, x + above


def points(low, high, count):
    """Draw points of boxes, (count, B, ...): inside, on faces, and corners; the ends last."""
    share = torch.rand(count, *low.shape, dtype=low.dtype)
    kind = torch.arange(count).reshape(-1, *[1] * low.dim()) % 3
    share = torch.where(kind == 1, share.round(), share)
    share = torch.where(kind == 2, (2 * share - 0.5).clamp(0, 1), share)
    drawn = low + share * (high - low)
    return torch.cat([drawn.clamp(low, high), low[None], high[None]])


@torch.no_grad()
def logits(net, drawn):
    return net(drawn.flatten(0, 1)).unflatten(0, drawn.shape[:2])
