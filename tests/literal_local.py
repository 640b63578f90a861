"""Operations with coefficients held at the image, as matrices written column by column.

Each function is what the operation makes of a vector v while its coefficients are those of u. The
oracle of dmn.rules.local, which shares none of its arithmetic.
"""

import torch
import torch.nn.functional as F
from torch import nn


def normalised(u, v, axes, eps, centred=True):
    mean = u.mean(axes, keepdim=True) if centred else 0 * u.mean(axes, keepdim=True)
    return v / ((u - mean) ** 2).mean(axes, keepdim=True).add(eps).sqrt()


def weigh(v, weight):
    return v if weight is None else v * weight


def layer_norm(u, v, shape, weight=None, bias=None, eps=1e-5):
    return weigh(normalised(u, v, tuple(range(-len(shape), 0)), eps), weight)


def rms_norm(u, v, shape, weight=None, eps=None):
    eps = torch.finfo(u.dtype).eps if eps is None else eps
    return weigh(normalised(u, v, tuple(range(-len(shape), 0)), eps, centred=False), weight)


def group_norm(u, v, groups, weight=None, bias=None, eps=1e-5):
    size = u.shape[1] // groups
    parts = [
        normalised(u[:, at : at + size], v[:, at : at + size], tuple(range(1, u.dim())), eps)
        for at in range(0, u.shape[1], size)
    ]
    weight = None if weight is None else weight.view(-1, *[1] * (u.dim() - 2))
    return weigh(torch.cat(parts, 1), weight)


def instance_norm(u, v, _mean=None, _var=None, weight=None, bias=None, *rest, eps=1e-5):
    return group_norm(u, v, u.shape[1], weight, bias, eps)


def normalize(u, v, p=2.0, dim=1, eps=1e-12, out=None):
    return v / torch.linalg.vector_norm(u, p, dim, keepdim=True).clamp(min=eps)


def glu(u, v, dim=-1):
    half = u.shape[dim] // 2
    return v.narrow(dim, 0, half) * torch.sigmoid(u.narrow(dim, half, half))


def of_module(module):
    """Return the function of a module; None if it holds nothing."""
    if isinstance(module, nn.LayerNorm):
        shape = module.normalized_shape
        return lambda u, v: layer_norm(u, v, shape, module.weight, eps=module.eps)
    if isinstance(module, nn.RMSNorm):
        shape = module.normalized_shape
        return lambda u, v: rms_norm(u, v, shape, module.weight, module.eps)
    if isinstance(module, nn.GroupNorm):
        groups = module.num_groups
        return lambda u, v: group_norm(u, v, groups, module.weight, eps=module.eps)
    if isinstance(module, (nn.InstanceNorm1d, nn.InstanceNorm2d)):
        return lambda u, v: instance_norm(u, v, weight=module.weight, eps=module.eps)
    if isinstance(module, nn.GLU):
        return lambda u, v: glu(u, v, module.dim)
    return None


FUNCTIONS = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "normalize": normalize,
    "glu": glu,
}


def matrix(function, u, size):
    """Return by image the matrix (outputs, inputs) of a function that is linear in v."""
    count = u[0].numel()
    rows = []
    for image in range(len(u)):
        basis = torch.eye(count, dtype=u.dtype)
        columns = [function(image, column.view(1, *u.shape[1:])).reshape(size) for column in basis]
        rows.append(torch.stack(columns, 1))
    return torch.stack(rows)


def through(matrices, streams, out_shape, bias=None):
    """Apply the positive and the negative entries of matrices to pairs of streams."""
    p, n = 0, 0
    for weights, (a, b) in zip(matrices, streams, strict=True):
        plus, minus = weights.clamp(min=0), (-weights).clamp(min=0)
        a, b = (stream.flatten(1).unsqueeze(-1) for stream in (a, b))
        p = p + (plus @ a + minus @ b).view(out_shape)
        n = n + (plus @ b + minus @ a).view(out_shape)
    if bias is None:
        return p, n
    return p + bias.clamp(min=0), n + (-bias).clamp(min=0)


def attend(module, query, key, value_p, value_n):
    """Run attention of one image, head by head, on two streams of values."""
    width, heads = module.embed_dim, module.num_heads
    wq, wk, wv = module.in_proj_weight.split(width)
    bq, bk, bv = module.in_proj_bias.split(width)
    q, k = query @ wq.T + bq, key @ wk.T + bk
    plus, minus = wv.clamp(min=0), (-wv).clamp(min=0)
    p = value_p @ plus.T + value_n @ minus.T + bv.clamp(min=0)
    n = value_p @ minus.T + value_n @ plus.T + (-bv).clamp(min=0)
    size, mixed_p, mixed_n = width // heads, [], []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        weights = F.softmax(q[:, part] @ k[:, part].T / size**0.5, dim=-1)
        mixed_p.append(weights @ p[:, part])
        mixed_n.append(weights @ n[:, part])
    p, n = torch.cat(mixed_p, -1), torch.cat(mixed_n, -1)
    plus, minus = module.out_proj.weight.clamp(min=0), (-module.out_proj.weight).clamp(min=0)
    bias = module.out_proj.bias
    return (
        p @ plus.T + n @ minus.T + bias.clamp(min=0),
        p @ minus.T + n @ plus.T + (-bias).clamp(min=0),
    )
