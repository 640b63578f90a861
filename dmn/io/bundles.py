"""Bundles: a few files in a folder or a .zip, listed with their hashes in a manifest.

The manifest is written last, so that what was not written to the end has none. Nothing is unpacked
to the disk, and no name in a bundle is used as a path.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from dmn.errors import BundleError, WriteError
from dmn.io.archives import check_archive
from dmn.io.reading import regular
from dmn.io.text import one_line, plain
from dmn.io.writing import write_whole

MANIFEST = "manifest.json"
LARGEST = 2**31  # bytes of all members
LARGEST_MANIFEST = 2**16
DATE = (1980, 1, 1, 0, 0, 0)  # the same content gives the same file
SUFFIX = ".zip"

Members = Mapping[str, bytes]


def write_bundle(path: str | Path, members: Members, format: str) -> Path:
    """Write a bundle: a file if the path ends with .zip, otherwise a folder.

    Args:
        path: An earlier bundle there is replaced.
        members: The content of each member by its name.
        format: What the bundle is, with a version.

    Returns:
        The path.

    Raises:
        WriteError: if it cannot be written, or the folder holds other files.
    """
    path = Path(path)
    content = {**members, MANIFEST: _manifest(members, format)}
    if path.suffix.lower() == SUFFIX:
        return write_whole(path, _zipped(content))
    if os.path.isdir(path) and (others := sorted({*os.listdir(path)} - content.keys())):
        raise WriteError(f"{path}: holds {plain(others[0])} already; give a new or an empty folder")
    for name, data in content.items():
        write_whole(path / name, data)
    return path


def read_bundle(path: str | Path, names: Collection[str], format: str) -> dict[str, bytes]:
    """Read a bundle, and check every member by its hash.

    Args:
        path: A folder or a .zip file.
        names: The members that it must have; others are refused.
        format: What it must be.

    Returns:
        The content of each member.

    Raises:
        BundleError: if it is missing, cut short or changed, or holds anything else; names the
            bundle and the member.
    """
    path = Path(path)
    try:
        if os.path.isdir(path):
            sizes = _folder_sizes(path)
            return _read(path, sizes, lambda name: _read_file(path / name), names, format)
        _require(regular(path).stat().st_size <= LARGEST, f"is larger than {LARGEST} bytes")
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            sizes = {entry.filename: entry.file_size for entry in entries}
            _require(len(sizes) == len(entries), "holds two members of one name")
            return _read(path, sizes, archive.read, names, format)
    except BundleError:
        raise
    except FileNotFoundError as error:
        raise BundleError(f"{path}: there is no such bundle") from error
    except Exception as error:  # a damaged archive raises anything, as struct.error
        raise BundleError(f"{path}: {one_line(error)}; save it again") from error


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the content of a .safetensors file."""
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(own)


def unpack_tensors(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, given its content.

    Raises:
        ValueError: if it is none.
    """
    try:
        return safetensors.torch.load(content)
    except Exception as error:  # of several kinds, some of them of Rust
        raise ValueError(one_line(error)) from error


def to_json(values: Any) -> bytes:
    """Return values as JSON, in the one form in which bundles hold it."""
    return (json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def from_json(content: bytes) -> Any:
    """Return the values of JSON as `to_json` writes it.

    Raises:
        ValueError: for anything else.
    """
    try:
        values = json.loads(content)
        same = to_json(values) == content
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({one_line(error)})") from error
    _require(same, "is not as it was written")
    return values


def _manifest(members: Members, format: str) -> bytes:
    listed = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in members.items()
    }
    return to_json({"format": format, "members": listed})


def _zipped(members: Members) -> bytes:
    """Return members, uncompressed, as the content of a .zip file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, DATE), data)
    return content.getvalue()


def _folder_sizes(path: Path) -> dict[str, int]:
    """Return the size of each file of a folder; refuse links, pipes and folders in it."""
    sizes = {}
    for name in sorted(os.listdir(path)):
        found = os.lstat(path / name)
        _require(stat.S_ISREG(found.st_mode), f"{plain(name)} is no regular file")
        sizes[name] = found.st_size
    return sizes


def _read_file(path: Path) -> bytes:
    return regular(path).read_bytes()


def _read(
    path: Path,
    sizes: Mapping[str, int],
    read: Callable[[str], bytes],
    names: Collection[str],
    format: str,
) -> dict[str, bytes]:
    """Read the manifest and then what it lists; nothing larger than it says."""

    def refuse_unless(condition: bool, member: str, fault: str) -> None:
        if not condition:
            raise BundleError(f"{path}: {plain(member)}: {fault}")

    wanted = [MANIFEST, *names]
    for name in sizes:
        refuse_unless(name in wanted, name, "does not belong to it")
    refuse_unless(MANIFEST in sizes, MANIFEST, "is missing; the bundle was not saved to the end")
    refuse_unless(sizes[MANIFEST] <= LARGEST_MANIFEST, MANIFEST, "is too large")
    try:
        manifest = from_json(read(MANIFEST))
        listed = _listed(manifest, names, format)
    except ValueError as error:
        raise BundleError(f"{path}: {MANIFEST}: {error}") from error
    refuse_unless(sum(listed.values()) <= LARGEST, MANIFEST, f"lists more than {LARGEST} bytes")
    members = {}
    for name, size in listed.items():
        refuse_unless(name in sizes, name, "is missing")
        there = f"has {sizes[name]} bytes, and the manifest says {size}"
        refuse_unless(sizes[name] == size, name, there)
        try:
            members[name] = read(name)
        except (zipfile.BadZipFile, OSError) as error:
            raise BundleError(f"{path}: {name}: cannot be read, {one_line(error)}") from error
    expected = from_json(_manifest(members, format))["members"]
    for name, facts in manifest["members"].items():
        refuse_unless(facts == expected[name], name, "was changed, by its hash in the manifest")
    return members


def _listed(values: Any, names: Collection[str], format: str) -> dict[str, int]:
    """Return the size of each member, as a manifest says it."""
    is_manifest = isinstance(values, dict) and values.keys() == {"format", "members"}
    _require(is_manifest, "is no manifest")
    _require(values["format"] == format, f"is of {values['format']!r}, and this reads {format!r}")
    members = values["members"]
    listed = isinstance(members, dict) and {*members} == {*names}
    _require(listed, f"must list {' and '.join(names)}")
    for name, facts in members.items():
        described = isinstance(facts, dict) and facts.keys() == {"bytes", "sha256"}
        _require(described, f"says no size and hash of {name}")
        size = facts["bytes"]
        _require(type(size) is int and size >= 0, f"says no size of {name}")
    return {name: members[name]["bytes"] for name in names}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
