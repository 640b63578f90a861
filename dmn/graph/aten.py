"""Write an ATen operation, as `torch.export` records it, as the same call of torch."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dmn.graph.in_place import assigned


class Written(NamedTuple):
    """A call of torch.

    Attributes:
        target: A function, or the name of a method.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


# Functions whose arguments have the order that ATen's have, up to those that only it has.
_SAME: dict[str, Callable[..., Any]] = {
    name: getattr(F, name)
    for name in (
        *("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d"),
        *("conv_transpose3d", "relu", "relu6", "hardtanh", "gelu", "silu", "mish", "hardswish"),
        *("hardsigmoid", "selu", "celu", "leaky_relu", "softplus", "prelu", "avg_pool1d"),
        *("avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"),
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
        *("scaled_dot_product_attention", "pad", "pixel_shuffle", "pixel_unshuffle"),
        *("channel_shuffle", "dropout", "alpha_dropout", "adaptive_max_pool1d"),
        *("adaptive_max_pool2d", "adaptive_max_pool3d"),
    )
}
_SAME |= {"log_sigmoid": F.logsigmoid, "im2col": F.unfold, "col2im": F.fold}
# Operations of several results, written as functions that return the first alone.
FIRST_ALONE = {f"adaptive_max_pool{n}d" for n in (1, 2, 3)}
FIRST_ALONE |= {f"max_pool{n}d_with_indices" for n in (1, 2, 3)}
_SAME |= {f"max_pool{n}d_with_indices": getattr(F, f"max_pool{n}d") for n in (1, 2, 3)}
_OVERWRITE = {"relu", "relu6", "hardtanh", "silu", "mish", "hardswish", "hardsigmoid", "selu"}
_OVERWRITE |= {"celu", "elu", "leaky_relu", "dropout", "alpha_dropout"}  # take `inplace`
_POOLS = {name for name in _SAME if name.startswith(("avg_pool", "max_pool"))}
_METHODS = {  # names of methods that differ from ATen's, or are functions of torch, too
    "split_with_sizes": "split",
    **{name: name for name in ("split", "chunk", "unbind", "to", "clone", "detach")},
    "lift_fresh_copy": "clone",
    "_to_copy": "to",
    "_unsafe_view": "view",
}
_UNUSED = {"pin_memory", "layout", "memory_format"}  # arguments that change no values
_BY_VALUES = {"item", "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"}
_UPSAMPLE = {
    f"{prefix}upsample_{mode}{n}d{suffix}": (torch_mode, suffix == "_aa")
    for mode, torch_mode in (("nearest", "nearest"), ("bilinear", "bilinear"))
    for n in (1, 2, 3)
    for prefix, suffix in (("", ""), ("_", "_aa"))
}
_UPSAMPLE |= {"upsample_linear1d": ("linear", False), "upsample_trilinear3d": ("trilinear", False)}
_UPSAMPLE |= {"upsample_bicubic2d": ("bicubic", False), "_upsample_bicubic2d_aa": ("bicubic", True)}
_UPSAMPLE |= {f"_upsample_nearest_exact{n}d": ("nearest-exact", False) for n in (1, 2, 3)}


def written(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], rank: int) -> Written:
    """Return the call of torch that does what an ATen operation does.

    Args:
        operation: The operation, an `OpOverload`.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        rank: Number of dimensions of its first argument.

    Raises:
        LookupError: if there is none, or if its result's shape depends on values; names it.
    """
    name = str(operation._opname)
    in_place = name.endswith("_") and not name.endswith("__")
    base = name.removesuffix("_") if in_place else name
    if operation.namespace != "aten" or base in _BY_VALUES:
        raise LookupError(str(operation))
    kwargs = {key: value for key, value in kwargs.items() if key not in _UNUSED}
    if name in _SPECIAL:
        given = {each.name: each.default_value for each in operation._schema.arguments}
        given |= dict(zip(given, args, strict=False))
        return _SPECIAL[name](rank, **{**given, **kwargs})
    if base in _SAME and (not in_place or base in _OVERWRITE):
        if base in _POOLS and args[2:3] == ([],):
            args = (*args[:2], args[1], *args[3:])  # no stride: that of the window
        return Written(_SAME[base], args, {**kwargs, **({"inplace": True} if in_place else {})})
    if not in_place and base not in _METHODS and (function := _function(base)):
        return Written(function, args, kwargs)
    method = _METHODS.get(name, name)
    if not hasattr(Tensor, method):
        raise LookupError(str(operation))
    return Written(method, args, kwargs)


def _function(name: str) -> Any:
    """Return the function of torch of a name; None if there is none."""
    package, _, rest = name.partition("_")
    if package in ("linalg", "special", "fft"):
        return getattr(getattr(torch, package), rest, None)
    return getattr(torch, name, None)


def _slice(
    rank: int, self: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1
) -> Written:
    end = None if isinstance(end, int) and end >= 2**62 else end
    index = (*[slice(None)] * (dim % rank), slice(start, end, None if step == 1 else step))
    return Written(operator.getitem, (self, index), {})


def _select(rank: int, self: Any, dim: int, index: Any) -> Written:
    return Written(operator.getitem, (self, (*[slice(None)] * (dim % rank), index)), {})


def _index(rank: int, self: Any, indices: Any) -> Written:
    return Written(operator.getitem, (self, _where(indices)), {})


def _index_put(rank: int, self: Any, indices: Any, values: Any, accumulate: bool) -> Written:
    if accumulate:
        return Written(torch.index_put, (self, indices, values, True), {})
    return Written(assigned, (self, _where(indices), values), {})


def _index_put_(rank: int, self: Any, indices: Any, values: Any, accumulate: bool) -> Written:
    if accumulate:
        return Written("index_put_", (self, indices, values, True), {})
    return Written(operator.setitem, (self, _where(indices), values), {})


def _where(indices: Any) -> tuple[Any, ...]:
    return tuple(slice(None) if index is None else index for index in indices)


def _batch_norm(
    rank: int, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, **rest: Any
) -> Written:
    options = (rest["training"], rest["momentum"], rest["eps"])
    return Written(F.batch_norm, (input, running_mean, running_var, weight, bias, *options), {})


def _instance_norm(
    rank: int, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, **rest: Any
) -> Written:
    options = (rest["use_input_stats"], rest["momentum"], rest["eps"])
    return Written(F.instance_norm, (input, running_mean, running_var, weight, bias, *options), {})


def _layer_norm(
    rank: int, input: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float, **_: Any
) -> Written:
    return Written(F.layer_norm, (input, normalized_shape, weight, bias, eps), {})


def _group_norm(
    rank: int, input: Any, num_groups: int, weight: Any, bias: Any, eps: float, **_: Any
) -> Written:
    return Written(F.group_norm, (input, num_groups, weight, bias, eps), {})


def _rms_norm(rank: int, input: Any, normalized_shape: Any, weight: Any, eps: Any) -> Written:
    return Written(F.rms_norm, (input, normalized_shape, weight, eps), {})


def _elu(rank: int, self: Any, alpha: Any, scale: Any, input_scale: Any) -> Written:
    if (scale, input_scale) != (1, 1):
        raise LookupError("aten.elu with scales")
    return Written(F.elu, (self, alpha), {})


def _pad(rank: int, self: Any, pad: Any, value: Any = 0) -> Written:
    return Written(F.pad, (self, pad, "constant", value), {})


def _dropout_of_channels(rank: int, input: Any, p: float, train: bool) -> Written:
    return Written(F.dropout2d, (input, p, train), {})


def _einsum(rank: int, equation: str, tensors: Any, path: Any) -> Written:
    return Written(torch.einsum, (equation, *tensors), {})


def _size(rank: int, self: Any, dim: int) -> Written:
    return Written("size", (self, dim), {})


def _detach_(rank: int, self: Any) -> Written:
    return Written("detach", (self,), {})


def _embedding(rank: int, weight: Any, indices: Any, **_: Any) -> Written:
    return Written(F.embedding, (indices, weight), {})


def _to_dtype(rank: int, self: Any, dtype: Any = None, device: Any = None, **_: Any) -> Written:
    options = {"dtype": dtype, "device": device}
    return Written("to", (self,), {key: value for key, value in options.items() if value})


def _upsample(name: str) -> Callable[..., Written]:
    mode, antialias = _UPSAMPLE[name]

    def write(
        rank: int, input: Any, output_size: Any, scale_factors: Any, align_corners: Any = None
    ) -> Written:
        options: dict[str, Any] = {"size": output_size, "scale_factor": scale_factors, "mode": mode}
        options |= {} if align_corners is None else {"align_corners": align_corners}
        options |= {"antialias": True} if antialias else {}
        return Written(F.interpolate, (input,), options)

    return write


_SPECIAL: dict[str, Callable[..., Written]] = {
    "slice": _slice,
    "select": _select,
    "index": _index,
    "index_put": _index_put,
    "index_put_": _index_put_,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
    "elu": _elu,
    "constant_pad_nd": _pad,
    "feature_dropout": _dropout_of_channels,
    "einsum": _einsum,
    "sym_size": _size,
    "detach_": _detach_,
    "embedding": _embedding,
    "to": _to_dtype,
    "_to_copy": _to_dtype,
    **{name: _upsample(name) for name in _UPSAMPLE},
}
