"""AttnLRP as its paper states it: rules that divide relevance, written out step by step.

Every rule takes what went in, and the relevance of what came out; it returns the relevance of what
went in. Source: Achtibat et al. 2024, AttnLRP, section 3.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import VisionTransformer
from vision_transformers import blocks_of, embedded, read_out


def linear(x, weight, bias, relevance, gamma=0.0):
    """Divide by contributions x_i w_ji; gamma adds to those that have the output's sign."""
    contributions = x[..., None, :] * weight
    positive = contributions.sum(dim=-1) + bias > 0
    above, below = contributions.clamp(min=0), contributions.clamp(max=0)
    parts = contributions + gamma * torch.where(positive[..., None], above, below)
    bias = bias + gamma * torch.where(positive, bias.clamp(min=0), bias.clamp(max=0))
    total = parts.sum(dim=-1) + bias
    return (parts / total[..., None] * relevance[..., None]).sum(dim=-2)


def layer_norm(norm, x, relevance):
    """The bias absorbs; the identity rule for scales, proposition 3.4; then what centres x."""
    size = x.shape[-1]
    scaled = F.layer_norm(x, (size,), norm.weight, None, norm.eps)
    centre = torch.eye(size).to(x) - 1 / size
    zero = torch.zeros(size).to(x)
    return linear(x, centre, zero, relevance * scaled / (scaled + norm.bias))


def add(x, y, relevance):
    """Divide in proportion."""
    return x / (x + y) * relevance, y / (x + y) * relevance


def matmul(a, b, relevance, operands=2):
    """Divide by a_ji b_ip / (2 o_jp), proposition 3.3; a constant operand takes nothing."""
    parts = a[..., :, :, None] * b[..., None, :, :]  # j, i, p
    shares = parts / (operands * (a @ b))[..., :, None, :] * relevance[..., :, None, :]
    return shares.sum(dim=-1), shares.sum(dim=-3)


def softmax(x, relevance):
    """Return x_i (R_i - s_i sum_j R_j), proposition 3.1."""
    return x * (relevance - x.softmax(dim=-1) * relevance.sum(dim=-1, keepdim=True))


class Block:
    """One block of a vision transformer, and what its steps return for tokens (B, N, C)."""

    def __init__(self, layers, tokens):
        self.layers, self.tokens = layers, tokens
        self.normed = layers.norm1(tokens)
        self.q, self.k, self.v = map(self.to_heads, layers.qkv(self.normed).chunk(3, dim=-1))
        self.scores = self.q @ self.k.transpose(2, 3) / self.q.shape[-1] ** 0.5
        self.mixed = self.from_heads(self.scores.softmax(dim=-1) @ self.v)
        self.attended = layers.proj(self.mixed)
        self.middle = tokens + self.attended
        self.returned = layers.mlp(layers.norm2(self.middle))
        self.output = self.middle + self.returned

    def to_heads(self, x):
        return x.unflatten(2, (self.layers.heads, -1)).transpose(1, 2)

    def from_heads(self, x):
        return x.transpose(1, 2).flatten(2)

    def back(self, relevance, gamma, constant):
        """Return the relevance of the tokens."""
        layers = self.layers
        skipped, through = add(self.middle, self.returned, relevance)
        relevance = skipped + layer_norm(layers.norm2, self.middle, self.mlp_back(through, gamma))
        skipped, through = add(self.tokens, self.attended, relevance)
        through = linear(self.mixed, layers.proj.weight, layers.proj.bias, through)
        through = self.attention_back(self.to_heads(through), constant)
        return skipped + layer_norm(layers.norm1, self.tokens, through)

    def mlp_back(self, relevance, gamma):
        first, last = (layer for layer in self.layers.mlp.modules() if isinstance(layer, nn.Linear))
        normed = self.layers.norm2(self.middle)
        hidden = F.gelu(first(normed))
        relevance = linear(hidden, last.weight, last.bias, relevance, gamma)
        return linear(normed, first.weight, first.bias, relevance, gamma)  # GELU changes nothing

    def attention_back(self, relevance, constant):
        weights, keys = self.scores.softmax(dim=-1), self.k.transpose(2, 3)
        of_weights, of_v = matmul(weights, self.v, relevance, 1 if constant else 2)
        of_scores = softmax(self.scores, of_weights) * (0 if constant else 1)
        of_q, of_keys = matmul(self.q, keys, of_scores)
        joined = [self.from_heads(part) for part in (of_q, of_keys.transpose(2, 3), of_v)]
        weight, bias = self.projection()
        return linear(self.normed, weight, bias, torch.cat(joined, dim=-1))

    def projection(self):
        """Return the weight and the bias of the layer that returns queries, keys and values."""
        identity = torch.eye(self.normed.shape[-1]).to(self.normed)
        bias = self.layers.qkv(torch.zeros_like(identity[None]))[0, 0]
        return (self.layers.qkv(identity[None])[0] - bias).T, bias


def attnlrp(model, x, target, conv_gamma=0.0, linear_gamma=0.0, constant=False):
    """Return the relevance of the pixels (B, 1, H, W) for a network that reads a class token."""
    torchvision = isinstance(model, VisionTransformer)
    norm, head = (model.encoder.ln, model.heads.head) if torchvision else (model.norm, model.head)
    conv = model.conv_proj if torchvision else model.patch_embed.proj
    blocks, tokens = [], embedded(model, x)
    for layers in blocks_of(model):
        blocks.append(Block(layers, tokens))
        tokens = blocks[-1].output
    start = read_out(model, tokens)[:, target, None]  # no other logit has relevance
    weight, bias = head.weight[target, None], head.bias[target, None]
    of_token = linear(norm(tokens[:, 0]), weight, bias, start, linear_gamma)
    relevance = torch.zeros_like(tokens)
    relevance[:, 0] = layer_norm(norm, tokens[:, 0], of_token)
    for block in reversed(blocks):
        relevance = block.back(relevance, linear_gamma, constant)
    patches = conv(x).flatten(2).transpose(1, 2)
    embedding = blocks[0].tokens[:, -patches.shape[1] :] - patches  # of positions
    of_patches, _ = add(patches, embedding, relevance[:, -patches.shape[1] :])
    size = conv.kernel_size
    pieces = F.unfold(x, size, stride=size).transpose(1, 2)
    of_pieces = linear(pieces, conv.weight.flatten(1), conv.bias, of_patches, conv_gamma)
    return F.fold(of_pieces.transpose(1, 2), x.shape[2:], size, stride=size).sum(1, keepdim=True)
