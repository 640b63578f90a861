"""The split by its definition: four products a layer, streams p and n, one operation at a time.

Slow and plain on purpose: the oracle of dmn.split, which shares none of its arithmetic.
"""

from functools import cache

import literal_local
import torch
import torch.nn.functional as F
from torch import nn

from dmn.graph.trace import target_of, trace
from dmn.rules.table import find_rules

CONVOLUTIONS = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.ConvTranspose2d: F.conv_transpose2d,
}


def positive(x):
    return x.clamp(min=0)


def shaped(parameter, x):
    return parameter.view(1, -1, *[1] * (x.dim() - 2))


def nonnegative(module, name):
    """Return the parts of a weight: what there is of it or, loosened to V, (V + W)/2, (V - W)/2."""
    weight = getattr(module, name)
    if weight is None:
        return torch.zeros(2, 1, dtype=module.weight.dtype)
    slack = getattr(module, f"{name}_slack", None)
    if slack is None:
        return positive(weight), positive(-weight)
    loose = weight.abs() + slack * weight.abs()
    return (loose + weight) / 2, (loose - weight) / 2


@cache
def _grid():
    """Points a thousandth apart, and on either side of every whole number, where kinks are."""
    whole = torch.arange(-8, 9, dtype=torch.float64)
    return torch.cat([torch.linspace(-30, 30, 60_001).double(), whole - 1e-9, whole, whole + 1e-9])


def slope_bounds(module, x):
    """Find c and C with -c <= slope <= C by differentiating, with five digits, rounded up."""
    channels = x.shape[1]
    grid = _grid().view(-1, 1).expand(-1, channels).clone().requires_grad_()
    with torch.enable_grad():
        (slopes,) = torch.autograd.grad(module(grid).sum(), grid)
    least, most = (
        torch.ceil(bound * 1e5 - 1e-3) / 1e5 for bound in (-slopes.amin(0), slopes.amax(0))
    )
    return shaped(positive(least), x), shaped(most, x)


ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.ELU, nn.Softplus, nn.Sigmoid),
    *(nn.Tanh, nn.GELU, nn.SiLU, nn.Hardswish),
)


def called(target, first, operands):
    if isinstance(target, str):
        return getattr(operands[0], target)(*operands[1:])
    return target(*first, *operands)


class Recorder(torch.fx.Interpreter):
    """Run a network as it is, and keep every node's value."""

    def values_of(self, x):
        self.kept = {}
        with torch.no_grad():
            self.run(x)
        return self.kept

    def run_node(self, n):
        self.kept[n] = super().run_node(n)
        return self.kept[n]


class Literal:
    """Run a network as two streams and keep, for every node, p, n and how they came to be.

    Args:
        model: A network in eval mode and float64.
        x: Images.
        pool: Form of max pooling.
        alpha: Shift, applied once before each activation and convex pool.
        theta: Share of min(p, n) kept after each of them.
        threshold: Recentre only where p + n exceeds it.
    """

    def __init__(self, model, x, *, pool="winner", alpha=0.0, theta=1.0, threshold=0.0):
        self.pool, self.alpha, self.theta, self.threshold = pool, alpha, theta, threshold
        self.traced = trace(model)
        self.streams, self.steps, self.nonlinear, self.nodes = {}, {}, set(), []
        self.norms = set()
        # At kinks, and in windows with equal entries, rounding in p - n would choose another side.
        self.original = Recorder(self.traced.network).values_of(x)
        self.with_streams = {node.name for node in find_rules(self.traced.network, local=True)}
        values = {}
        for node in self.traced.network.graph.nodes:
            if node.op == "output":
                self.output = node.args[0]
            elif node.op == "placeholder":
                self.keep(node, positive(x), positive(-x))
            elif node.name in self.with_streams:
                self.step(node, values)
            else:
                values[node] = self.original[node]
        self.p, self.n = self.streams[self.output]

    def keep(self, node, p, n):
        p, n = p.detach().requires_grad_(), n.detach().requires_grad_()
        self.streams[node] = p, n
        self.nodes.append(node)

    def step(self, node, values):
        """Run one node from streams without history, so that it can be gone back through alone."""
        target = target_of(self.traced.network, node)
        sources = [n for n in node.all_input_nodes if n in self.streams]
        name = node.target if node.op == "call_method" else getattr(target, "__name__", None)
        args = torch.fx.node.map_arg(node.args, lambda n: values.get(n, n))
        kwargs = torch.fx.node.map_arg(node.kwargs, lambda n: values.get(n, n))
        operands = [a for a in node.args if isinstance(a, torch.fx.Node) and a in self.streams]
        inputs = [self.streams[source] for source in sources]
        with torch.enable_grad():
            nonlinear = False
            if type(target) in CONVOLUTIONS or isinstance(target, nn.Linear):
                p, n, z = self.linear(target, *inputs[0])
            elif getattr(target, "running_mean", None) is not None:
                p, n, z = self.norm(target, *inputs[0])
            elif isinstance(target, ACTIVATIONS):
                p, n, z = self.activation(target, *inputs[0], self.original[sources[0]])
                nonlinear = True
            elif isinstance(target, (nn.MaxPool2d, nn.AdaptiveMaxPool2d)):
                p, n, z = self.max_pool(target, *inputs[0], self.original[sources[0]])
                nonlinear = self.pool == "convex"
            elif isinstance(target, nn.MultiheadAttention):
                p, n = self.attention(target, args, *inputs[0])
                z = p, n
            elif (local := literal_local.of_module(target)) is not None:
                p, n = self.normalisation(local, inputs[0], sources[0], node)
                nonlinear = not isinstance(target, nn.GLU)
                self.norms |= {node} if nonlinear else set()
                z = p, n
            elif name in ("pow", "square"):
                p, n = self.power(args[1] if name == "pow" else 2, inputs[0], sources[0])
                z = p, n
            elif name in literal_local.FUNCTIONS:
                p, n = self.normalising_function(name, args, kwargs, inputs[0], sources[0], node)
                nonlinear = name != "glu"
                self.norms |= {node} if nonlinear else set()
                z = p, n
            elif name in ("matmul", "mul", "einsum", "bmm") and len(operands) == 2:
                p, n = self.bilinear(target, args, operands, node)
                z = p, n
            elif name in ("matmul", "einsum", "bmm"):
                p, n = self.matrix_product(target, args, inputs[0], sources[0], node)
                z = p, n
            elif isinstance(target, nn.Module):
                p, n = (target(stream) for stream in inputs[0])
                z = p, n
            else:
                p, n = self.function(name, target, args, kwargs, sources)
                z = p, n
        if nonlinear:
            self.nonlinear.add(node)
            with torch.enable_grad():
                p, n = self.shifted(p, n)
        self.steps[node] = sources, p, n, z
        if nonlinear:
            common = torch.minimum(p, n) * (1 - self.theta)
            common = torch.where(p + n > self.threshold, common, torch.zeros_like(common))
            self.keep(node, p - common, n - common)
        else:
            self.keep(node, p, n)

    def linear(self, module, p, n):
        plus, minus = nonnegative(module, "weight")
        bias_p, bias_n = nonnegative(module, "bias")
        if isinstance(module, nn.Linear):

            def run(x, w):
                return x @ w.T
        else:
            bias_p, bias_n = shaped(bias_p, p), shaped(bias_n, p)
            options = {
                "stride": module.stride,
                "dilation": module.dilation,
                "groups": module.groups,
            }
            if isinstance(module, nn.ConvTranspose2d):
                options["output_padding"] = module.output_padding

            def run(x, w):
                padding = module.padding
                if module.padding_mode != "zeros":
                    sides = [side for size in reversed(padding) for side in (size, size)]
                    x, padding = F.pad(x, sides, mode=module.padding_mode), 0
                return CONVOLUTIONS[type(module)](x, w, padding=padding, **options)

        zp = run(p, plus) + run(n, minus) + bias_p
        zn = run(p, minus) + run(n, plus) + bias_n
        return zp, zn, (zp, zn)

    def norm(self, module, p, n):
        scale = 1 / (module.running_var + module.eps).sqrt()
        scale = scale if module.weight is None else module.weight * scale
        shift = (0 if module.bias is None else module.bias) - module.running_mean * scale
        scale, shift = shaped(scale, p), shaped(shift, p)
        zp = positive(scale) * p + positive(-scale) * n + positive(shift)
        zn = positive(-scale) * p + positive(scale) * n + positive(-shift)
        return zp, zn, (zp, zn)

    def attention(self, module, args, p, n):
        rows = [
            literal_local.attend(module, *(x[i] for x in (*args[:2], p, n))) for i in range(len(p))
        ]
        return tuple(map(torch.stack, zip(*rows, strict=True)))

    def normalisation(self, function, streams, source, node):
        """Run what is affine once its statistics are held: what is missing in u is the constant."""
        u, out = self.original[source], self.original[node]
        weights = literal_local.matrix(lambda image, v: function(u[image : image + 1], v), u, -1)
        constant = out - (weights @ u.flatten(1).unsqueeze(-1)).view(out.shape)
        return literal_local.through([weights], [streams], out.shape, constant)

    def normalising_function(self, name, args, kwargs, streams, source, node):
        kwargs = {key: value for key, value in kwargs.items() if key != "input"}

        def function(u, v):
            return literal_local.FUNCTIONS[name](u, v, *args[1:], **kwargs)

        return self.normalisation(function, streams, source, node)

    def power(self, exponent, streams, source):
        (p, n), factor = streams, self.original[source]
        for _ in range(exponent - 2):
            factor = factor * self.original[source]
        plus, minus = positive(factor), positive(-factor)
        return plus * p + minus * n, plus * n + minus * p

    def bilinear(self, target, args, operands, node):
        out = self.original[node]
        first = args[:1] if isinstance(args[0], str) else ()
        matrices = []
        for place in (0, 1):

            def of_one(image, v, place=place):
                filled = [self.original[each][image : image + 1] for each in operands]
                filled[place] = v
                return called(target, first, filled) / 2

            matrices.append(literal_local.matrix(of_one, self.original[operands[place]], -1))
        streams = [self.streams[each] for each in operands]
        return literal_local.through(matrices, streams, out.shape)

    def matrix_product(self, target, args, streams, source, node):
        first = args[:1] if isinstance(args[0], str) else ()
        operands, out = [a for a in args if not isinstance(a, str)], self.original[node]

        def of_one(image, v):
            filled = [
                v
                if each is source
                else each[image : image + 1]
                if each.dim() == v.dim() and len(each) == len(self.original[source])
                else each
                for each in operands
            ]
            return called(target, first, filled)

        weights = literal_local.matrix(of_one, self.original[source], -1)
        return literal_local.through([weights], [streams], out.shape)

    def shifted(self, p, n):
        """Let the backward pass subtract alpha times the sum of the sensitivities from both."""
        both = torch.stack([p, n])
        both.register_hook(lambda grad: grad - self.alpha * grad.sum(0))
        return both[0], both[1]

    def activation(self, module, p, n, u):
        if isinstance(module, nn.ReLU):
            high, low = torch.where(u > 0, p, n), n  # the larger, ties by the network
            slopes = (u > 0).to(p)
            return high, low, (slopes * p + (1 - slopes) * n, n)
        c, most = slope_bounds(module, p)
        at_zero = module(p.new_zeros(1, p.shape[1], *[1] * (p.dim() - 2)))
        secant = torch.where(u == 0, torch.zeros_like(u), (module(u) - at_zero) / u)
        low = c * p + most * n + positive(-at_zero)
        high = module(p - n + (u - (p - n)).detach()) + low
        # The same value, but for a constant, by slopes that conserve relevance.
        conserving = (secant + c) * p + (most - secant) * n
        return high, low, (conserving, c * p + most * n)

    def max_pool(self, module, p, n, u):
        if isinstance(module, nn.AdaptiveMaxPool2d):
            size = module.output_size
            _, index = F.adaptive_max_pool2d(u, size, return_indices=True)
        else:
            options = (module.kernel_size, module.stride, module.padding, module.dilation)
            _, index = F.max_pool2d(u, *options, ceil_mode=module.ceil_mode, return_indices=True)
        if self.pool == "winner":
            p, n = (s.flatten(2).gather(2, index.flatten(2)).view(index.shape) for s in (p, n))
            return p, n, (p, n)
        total = torch.stack(
            [
                torch.stack([n[..., i, j].sum(-1) for i, j in row], -1)
                for row in self.windows(module, n.shape[-2:], index.shape[-2:])
            ],
            -2,
        )
        p, own = (s.flatten(2).gather(2, index.flatten(2)).view(index.shape) for s in (p, n))
        return p + total - own, total, (p + total - own, total)

    def windows(self, module, size, out):
        """Return, for each cell that comes out, the rows and columns of those that go in."""
        if isinstance(module, nn.AdaptiveMaxPool2d):

            def cells(axis, k):
                return range(k * size[axis] // out[axis], -(-(k + 1) * size[axis] // out[axis]))
        else:

            def cells(axis, k):
                start = k * module.stride - module.padding
                all_of_them = range(
                    start, start + module.kernel_size * module.dilation, module.dilation
                )
                return [i for i in all_of_them if 0 <= i < size[axis]]

        def grid(i, j):
            pairs = [(a, b) for a in cells(0, i) for b in cells(1, j)]
            return [a for a, _ in pairs], [b for _, b in pairs]

        return [[grid(i, j) for j in range(out[1])] for i in range(out[0])]

    def function(self, name, target, args, kwargs, sources):
        def on(side):
            filled = torch.fx.node.map_aggregate(
                args, lambda a: self.streams[a][side] if isinstance(a, torch.fx.Node) else a
            )
            if isinstance(target, str):
                return getattr(filled[0], target)(*filled[1:], **kwargs)
            return target(*filled, **kwargs)

        if name in ("add", "sub"):
            (p1, n1), (p2, n2) = map(self.as_streams, args)
            return (p1 + n2, n1 + p2) if name == "sub" else (p1 + p2, n1 + n2)
        if name in ("cat", "concat"):
            parts = [self.as_streams(part) for part in args[0]]
            return tuple(torch.cat(side, *args[1:], **kwargs) for side in zip(*parts, strict=True))
        if name == "addcmul":
            added, factor = self.as_streams(args[0]), args[1] * kwargs.get("value", 1)
            p, n = self.streams[args[2]]
            plus, minus = positive(factor), positive(-factor)
            return plus * p + minus * n + added[0], plus * n + minus * p + added[1]
        if name == "scaled_dot_product_attention":
            q, k = args[:2]
            weights = torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, -1)
            return tuple(weights @ stream for stream in self.streams[args[2]])
        if name in ("mul", "truediv", "neg"):
            p, n = self.streams[sources[0]]
            k = -1.0 if name == "neg" else next(a for a in args if not isinstance(a, torch.fx.Node))
            k = torch.as_tensor(1 / k if name == "truediv" else k, dtype=p.dtype)
            return positive(k) * p + positive(-k) * n, positive(-k) * p + positive(k) * n
        return on(0), on(1)

    def as_streams(self, operand):
        if isinstance(operand, torch.fx.Node):
            return self.streams[operand]
        constant = torch.as_tensor(operand, dtype=torch.float64)
        return positive(constant), positive(-constant)

    def back(self, start_p, start_n, shift=None, epsilon=0.0):
        """Go back from sensitivities of the output; with a shift by node, from relevance instead.

        Returns (sensitivity or relevance of p, of n) by node.
        """
        found = {self.output: (start_p, start_n)}
        for node in reversed(self.nodes):
            if node not in self.steps or node not in found:
                continue
            sources, p, n, conserving = self.steps[node]
            dp, dn = found[node]
            if shift is not None:
                dp, dn = (
                    torch.where(out > 0, r / out, torch.zeros_like(r))
                    for r, out in ((dp, p.detach()), (dn, n.detach()))
                )
            outputs = [p, n] if shift is None else list(conserving)
            inputs = [stream for source in sources for stream in self.streams[source]]
            grads = torch.autograd.grad(
                outputs, inputs, [dp, dn], retain_graph=True, allow_unused=True
            )
            for index, source in enumerate(sources):
                pair = []
                for grad, stream in zip(
                    grads[2 * index : 2 * index + 2], self.streams[source], strict=True
                ):
                    grad = torch.zeros_like(stream) if grad is None else grad
                    pair.append(grad if shift is None else grad * stream.detach())
                if shift is not None and node in self.nonlinear:
                    pair = self.spread(source, *pair, shift(node), epsilon)
                before = found.get(source, (0, 0))
                found[source] = (before[0] + pair[0], before[1] + pair[1])
        return found

    def spread(self, node, relevance_p, relevance_n, alpha, epsilon):
        """Spread relevance where a chain of linear operations ends.

        Of what the larger stream has, and of 2 alpha of what the smaller has, 1 - alpha goes by the
        larger stream and -alpha by the smaller, divided by what that makes of both.
        """
        p, n = (stream.detach() for stream in self.streams[node])
        negative = self.original[node] < 0
        larger, smaller = torch.where(negative, n, p), torch.where(negative, p, n)
        own = torch.where(negative, relevance_n, relevance_p)
        other = torch.where(negative, relevance_p, relevance_n)
        own, other = own + 2 * alpha * other, (1 - 2 * alpha) * other
        z = (1 - alpha) * larger - alpha * smaller
        factor = torch.where(z + epsilon > 0, own / (z + epsilon), torch.zeros_like(own))
        rest = torch.where(smaller > 0, other * smaller / (smaller + epsilon), 0 * other)
        own, other = (1 - alpha) * larger * factor, rest - alpha * smaller * factor
        return torch.where(negative, other, own), torch.where(negative, own, other)

    def sensitivities(self, target, seed=None):
        """Return by layer name (dp_g, dn_g, dp_h, dn_h) of the chosen logits."""
        one = torch.zeros_like(self.p).scatter_(1, target[:, None], 1.0) if seed is None else seed
        g, h = self.back(one, torch.zeros_like(one)), self.back(torch.zeros_like(one), one)
        return {
            name: (*g[node], *h[node]) for name, node in self.traced.layers.items() if node in g
        }

    def relevance(self, target, epsilon, shift=lambda node: 0.0):
        """Return by layer name the relevance (R+_g, R-_g, R+_h, R-_h) of the chosen logits.

        Of the shift of the output alpha, g starts from 1 - alpha of its evidence less alpha of
        that of h; and h likewise.
        """
        one = torch.zeros_like(self.p).scatter_(1, target[:, None], 1.0)
        alpha, p, n = shift(self.output), one * self.p.detach(), one * self.n.detach()
        g = self.back((1 - alpha) * p, -alpha * n, shift, epsilon)
        h = self.back(-alpha * p, (1 - alpha) * n, shift, epsilon)
        return {
            name: (*g[node], *h[node]) for name, node in self.traced.layers.items() if node in g
        }
