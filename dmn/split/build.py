"""Split a trained network: the same function, bit for bit, as a difference of monotone ones."""

from __future__ import annotations

from weakref import ref

from torch import Tensor, nn

from dmn.explain.target import class_names
from dmn.graph.equal import require_equal
from dmn.graph.head import drop_softmax_head
from dmn.graph.trace import Traced, Unsupported, describe, trace, unsupported
from dmn.graph.wrappers import unwrap
from dmn.nn import Pool, check_numbers
from dmn.rules.base import Rule
from dmn.rules.hold import hold_coefficients
from dmn.rules.table import find_rules, is_known
from dmn.split.held import tell_once
from dmn.split.model import SplitModel
from dmn.split.options import Products, check_products


def split(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    products: Products = "held",
    pool: Pool = "winner",
    theta: float = 0.0,
    threshold: float = 0.0,
) -> SplitModel:
    """Write a trained network as g - h, both monotone, without changing what it computes.

    Args:
        model: Any classifier that torch.fx can trace and whose operations have a rule. It is copied
            in eval mode and not changed. `DataParallel` and `torch.compile` stand for the network
            that they wrap.
        example: Images (B, C, H, W), on which the split network is compared with the original. They
            also tell which layers are images, and decide where the forward branches on shapes.
        products: What is done about attention, gates, normalisation by statistics of the image, and
            other products of activations. "held" takes coefficients as constants at each image, so
            that g and h are monotone for that image only; "refuse" raises `UnsupportedError`.
        pool: Form of max pooling. "winner" takes both streams from the position of the largest
            activation. "convex" keeps g and h monotone and convex, but both grow with depth.
        theta: Share of min(p, n) kept after each activation, in [0, 1]. 1 is the literal split,
            which is monotone; 0 gives the smallest streams.
        threshold: Recentre only where p + n exceeds it, >= 0.

    Returns:
        The split network. It predicts and explains. If the model ends in a softmax over classes,
        this one returns the logits before it.

    Raises:
        UnsupportedError: if the network cannot be written as a graph, or has operations without a
            rule; lists all of them before anything runs.
        NotEqualError: if it does not predict what the original does, bit for bit, on the example.

    Source: Zimmermann & Loho, Hidden Monotonicity, CVPR 2026; for the rotated form see "The split
        of a trained network" in the documentation.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        >>> x = torch.rand(2, 1, 8, 8)
        >>> torch.equal(split(net, x)(x), net(x))
        True
    """
    model = unwrap(model)
    traced = trace(model, is_known, example)
    check_products(products)
    traced, head = drop_softmax_head(traced)
    if products == "held":
        hold_coefficients(traced.network)
    rules = _find_rules(traced, products == "held")
    result = SplitModel(traced, rules, pool=pool, theta=theta, threshold=threshold)
    result.name, result._original = type(model).__name__, ref(model)
    result.classes = class_names(model)
    result.head = head
    tell_once(result.name, result.held, head)
    if example is not None:
        check_numbers(example)
        whole = result if head is None else nn.Sequential(result, head)
        require_equal(whole, model, example, exact=True)
        result.find_image_layers(example)
    return result


def _find_rules(traced: Traced, local: bool) -> dict[str, Rule]:
    """Return the rule of every node with streams; raise for all nodes without a rule."""
    network, rules = traced.network, find_rules(traced.network, local)
    without_rule = [(node, needs) for node, needs in rules.items() if isinstance(needs, str)]
    refused = [Unsupported(describe(network, node), needs) for node, needs in without_rule]
    (output,) = network.graph.output_node().all_input_nodes
    if not refused and output not in rules:
        refused = [Unsupported(describe(network, output), _NOTHING_LEFT)]
    if refused or traced.unsupported:
        raise unsupported([*traced.unsupported, *refused], f"split {type(network).__name__}")
    return {node.name: rule for node, rule in rules.items() if isinstance(rule, Rule)}


_NOTHING_LEFT = "the image reaches the logits through coefficients only, which are held"
