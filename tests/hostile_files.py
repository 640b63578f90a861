"""Files of weights that somebody has tampered with, each made by a small function."""

import json
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections import OrderedDict

import safetensors.torch
import torch
from torch import nn


class Payload:
    """Makes a folder called after it, if it is unpickled as Python does."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def _legacy(held, path):
    torch.save(held, path, _use_new_zipfile_serialization=False)


def _script(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        torch.jit.save(torch.jit.trace(nn.ReLU(), torch.zeros(1)), path)


def _pickle(held, path):
    path.write_bytes(pickle.dumps(held, protocol=2))


PAYLOADS = {  # the name of the file, and how a payload gets there
    "bare.pt": lambda payload, path: torch.save(payload, path),
    "nested.pth": lambda payload, path: torch.save({"w": torch.zeros(1), "x": [payload]}, path),
    "lightning.ckpt": lambda payload, path: torch.save({"state_dict": {"net.w": payload}}, path),
    "beside.ckpt": lambda payload, path: torch.save(
        {"state_dict": {"net.w": torch.zeros(1)}, "callbacks": payload}, path
    ),
    "legacy.pt": lambda payload, path: _legacy({"w": payload}, path),
    "plain.pth": _pickle,
    "renamed.safetensors": _pickle,
    "archive.safetensors": lambda payload, path: torch.save(payload, path),
}


def _zipped(compression, fill):
    def make(path):
        state = {"w": torch.full((fill,), 0.5)}
        torch.save(state, path)
        with zipfile.ZipFile(path) as archive:
            entries = {each: archive.read(each) for each in archive.namelist()}
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)

    return make


def _overlapping(path):
    """Let 500 entries of the directory be the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data/0", bytes(100_000))
        archive.filelist *= 500
        archive._didModify = True


def _codecs(path):
    """Double a string forty times, by a call that torch allows."""
    call = b"c_codecs\nencode\n"
    text = b"U\x10" + b"a" * 16
    for _ in range(40):
        text = call + text + b"X\x03\x00\x00\x00hex\x86R"
    _in_archive(b"\x80\x02" + text + b".", path)


def _nested(path):
    """Make a key that Python cannot hash: tuples in tuples, a million deep."""
    _in_archive(b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s.", path)


def _in_archive(pickled, path):
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)


def _safetensors(header, data=b""):
    def make(path):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)

    return make


def _claim(shape, *offsets, kind="F32"):
    return {"dtype": kind, "shape": shape, "data_offsets": list(offsets)}


def _nan():
    state = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).state_dict()
    state["1.bias"][0] = torch.nan
    return state


def _quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        return {"w": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)}


STATES = {  # what is in the file, and what its refusal says
    "a NaN": (_nan, r"not finite: 1\.bias"),
    "an infinity": (lambda: {"w": torch.tensor([1.0, -torch.inf])}, "not finite: w"),
    "complex numbers": (lambda: {"w": torch.zeros(2, dtype=torch.complex64)}, "complex64"),
    "a sparse tensor": (lambda: {"w": torch.eye(2).to_sparse()}, "_rebuild_sparse_tensor"),
    "a quantized tensor": (_quantized, "_rebuild_qtensor"),
    "a meta tensor": (lambda: {"w": torch.zeros(9, device="meta")}, "_rebuild_meta_tensor"),
    "float8": (lambda: {"w": torch.zeros(2).to(torch.float8_e4m3fn)}, "not a file of weights"),
    "a key that is no text": (lambda: {3: torch.zeros(1)}, "a key of type int"),
    "nested dictionaries": (lambda: {"w": {"x": torch.zeros(1)}}, r"other things .* w \(dict\)"),
    "bytes": (lambda: {"w": b"x"}, r"_codecs\.encode"),
    "a list": (lambda: [torch.zeros(1)], "holds a list"),
    "a tensor alone": (lambda: torch.zeros(1), "holds a Tensor"),
    "a state_dict that is a list": (lambda: {"state_dict": [1]}, r"holds a list|\(list\)"),
    "10^12 numbers that are one": (lambda: {"w": torch.zeros(1).expand(10**6, 10**6)}, "not in it"),
    "10^6 overlapping rows": (
        lambda: {"w": torch.zeros(10**6).as_strided((10**6 - 9, 9), (1, 1))},
        "not in it",
    ),
}

FILES = {  # what is done, how, and the name of the file
    "a zip of compressed entries": (_zipped(zipfile.ZIP_DEFLATED, 10**6), "bomb.pth"),
    "a zip of overlapping entries": (_overlapping, "overlap.pth"),
    "a text that doubles forty times": (_codecs, "double.pt"),
    "a key nested 10^6 deep": (_nested, "nested.pt"),
    "an empty file": (lambda path: path.write_bytes(b""), "empty.ckpt"),
    "an empty .safetensors": (lambda path: path.write_bytes(b""), "empty.safetensors"),
    "a folder": (lambda path: path.mkdir(), "folder.pt"),
    "a text": (lambda path: path.write_text("not weights" * 99), "text.pt"),
    "a TorchScript archive": (_script, "script.pt"),
    "a header that is longer than the file": (
        lambda path: path.write_bytes(struct.pack("<Q", 10**6) + b"{}"),
        "long.safetensors",
    ),
    "a header of 2^63 bytes": (
        lambda path: path.write_bytes(struct.pack("<Q", 2**63) + b"{}"),
        "huge.safetensors",
    ),
    "tensors that overlap": (
        _safetensors({"a": _claim([2], 0, 8), "b": _claim([2], 4, 12)}, bytes(12)),
        "overlap.safetensors",
    ),
    "a tensor outside the file": (
        _safetensors({"a": _claim([2], 8, 16)}, bytes(8)),
        "outside.safetensors",
    ),
    "a tensor of 10^18 numbers": (
        _safetensors({"a": _claim([10**9, 10**9], 0, 8)}, bytes(8)),
        "huge_tensor.safetensors",
    ),
    "a header nested 10^5 deep": (_safetensors(b"[" * 10**5), "deep.safetensors"),
    "a key twice": (
        _safetensors(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
            bytes(8),
        ),
        "twice.safetensors",
    ),
}

SAVED = {  # how an honest state dict is kept
    "state.pt": torch.save,
    "legacy.pth": _legacy,
    "run.ckpt": lambda state, path: torch.save(
        {"state_dict": {f"net.{key}": value for key, value in state.items()}, "epoch": 3}, path
    ),
    "state.safetensors": lambda state, path: safetensors.torch.save_file(state, path),
}


def honest():
    """Return a small state dict."""
    layers = OrderedDict(conv=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3), head=nn.Linear(3, 2))
    return nn.Sequential(layers).state_dict()


def flip(content, place):
    """Flip a bit."""
    changed = bytearray(content)
    changed[place % len(content)] ^= 1 << place % 8
    return bytes(changed)


HARMS = {  # of an honest file's bytes, at a place
    "flip": flip,
    "cut": lambda content, place: content[: place % len(content)],
    "insert": lambda content, place: (
        content[: place % len(content)]
        + random.Random(place).randbytes(1 + place % 7)
        + content[place % len(content) :]
    ),
    "swap": lambda content, place: (
        content[place % len(content) :] + content[: place % len(content)]
    ),
}
