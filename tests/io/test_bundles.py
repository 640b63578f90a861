"""Bundles come back bit for bit, or are refused by the bundle and the member."""

import json
import os
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from fuzzing import fuzzed
from hostile_files import HARMS
from hypothesis import given
from hypothesis import strategies as st

import dmn.io.bundles as bundles
from dmn.errors import BundleError, WriteError
from dmn.io.bundles import (
    MANIFEST,
    from_json,
    pack_tensors,
    read_bundle,
    to_json,
    unpack_tensors,
    write_bundle,
)

MEMBERS = {"facts.json": b'{"a": 1}\n', "numbers.bin": bytes(range(256)) * 4}
FORMAT = "test/1"


def read(path):
    return read_bundle(path, MEMBERS, FORMAT)


@pytest.fixture(params=["made.zip", "made"])
def bundle(request, tmp_path):
    return write_bundle(tmp_path / request.param, MEMBERS, FORMAT)


def change(bundle, edit):
    """Write a bundle anew, after its members were edited as a dictionary."""
    if bundle.is_dir():
        members = {path.name: path.read_bytes() for path in bundle.iterdir()}
        shutil.rmtree(bundle)
        bundle.mkdir()
        for name, content in edit(members).items():
            (bundle / name).write_bytes(content)
        return
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    bundle.unlink()
    with zipfile.ZipFile(bundle, "w") as archive:
        for name, content in edit(members).items():
            archive.writestr(name, content)


def manifest(content, **changes):
    """Return members with a manifest that says something else."""
    values = json.loads(content[MANIFEST])
    return content | {MANIFEST: to_json(values | changes)}


def listed(**changes):
    def edit(members):
        values = json.loads(members[MANIFEST])["members"]
        return manifest(members, members={**values, **changes})

    return edit


CHANGES = {  # what is done, how, and what is said of which member
    "a member is missing": (
        lambda m: {k: v for k, v in m.items() if k != "numbers.bin"},
        r"numbers\.bin: is missing",
    ),
    "the manifest is missing": (
        lambda m: {k: v for k, v in m.items() if k != MANIFEST},
        r"manifest\.json: is missing; the bundle was not saved to the end",
    ),
    "there is another member": (
        lambda m: {**m, "extra.py": b"import os"},
        r"extra\.py: does not belong to it",
    ),
    "a byte of a member is changed": (
        lambda m: {**m, "numbers.bin": b"\1" + m["numbers.bin"][1:]},
        r"numbers\.bin: was changed, by its hash in the manifest",
    ),
    "a member is cut short": (
        lambda m: {**m, "numbers.bin": m["numbers.bin"][:-1]},
        r"numbers\.bin: has 1023 bytes, and the manifest says 1024",
    ),
    "a member is larger": (
        lambda m: {**m, "facts.json": m["facts.json"] * 9},
        r"facts\.json: has 81 bytes, and the manifest says 9",
    ),
    "the manifest is empty": (lambda m: {**m, MANIFEST: b""}, r"manifest\.json: is no JSON"),
    "the manifest is nested deeply": (
        lambda m: {**m, MANIFEST: b"[" * 60_000},
        r"manifest\.json: is no JSON",
    ),
    "the manifest is a list": (lambda m: {**m, MANIFEST: b"[]\n"}, "is no manifest"),
    "the manifest is huge": (
        lambda m: {**m, MANIFEST: b" " * 10**5},
        r"manifest\.json: is too large",
    ),
    "the manifest is written otherwise": (
        lambda m: {**m, MANIFEST: m[MANIFEST] + b" "},
        r"manifest\.json: is not as it was written",
    ),
    "it is of another format": (
        lambda m: manifest(m, format="test/2"),
        r"is of 'test/2', and this reads 'test/1'",
    ),
    "the manifest lists too little": (
        lambda m: manifest(m, members={}),
        r"must list facts\.json and numbers\.bin",
    ),
    "a hash is missing": (listed(**{"facts.json": {"bytes": 9}}), "says no size and hash of"),
    "a size is no number": (
        listed(**{"facts.json": {"bytes": True, "sha256": ""}}),
        r"says no size of facts\.json",
    ),
    "a size is 10^18": (
        listed(**{"facts.json": {"bytes": 10**18, "sha256": ""}}),
        r"manifest\.json: lists more than \d+ bytes",
    ),
    "a hash is another": (
        listed(**{"facts.json": {"bytes": 9, "sha256": "0" * 64}}),
        r"facts\.json: was changed",
    ),
}


def test_members_come_back_bit_for_bit(bundle):
    assert read(bundle) == MEMBERS
    assert read(write_bundle(bundle, {**MEMBERS, "facts.json": b""}, FORMAT))["facts.json"] == b""


@pytest.mark.torture("a saved explanation: {what}", "refused by the bundle and the member")
@pytest.mark.parametrize("what", CHANGES)
def test_a_bundle_that_is_not_whole_is_refused(what, bundle, happened):
    edit, told = CHANGES[what]
    change(bundle, edit)
    with pytest.raises(BundleError, match=told) as caught:
        read(bundle)
    assert str(caught.value).startswith(f"{bundle}: ")
    assert "\n" not in str(caught.value)
    happened(str(caught.value))


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/escaped.txt", "a/../../b", "..", "a\\b"])
def test_names_that_lead_elsewhere_are_refused_and_nothing_is_written(name, tmp_path):
    bundle = write_bundle(tmp_path / "deep" / "made.zip", MEMBERS, FORMAT)
    change(bundle, lambda members: {**members, name: b"x"})
    with pytest.raises(BundleError, match="does not belong to it"):
        read(bundle)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "made.zip"]


def test_archives_that_readers_see_in_different_ways_are_refused(tmp_path):
    bundle = write_bundle(tmp_path / "made.zip", MEMBERS, FORMAT)
    content = bundle.read_bytes()
    with zipfile.ZipFile(bundle, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("facts.json", b"again")
    with pytest.raises(BundleError, match=r"made\.zip: holds two members of one name"):
        read(bundle)
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("numbers.bin", bytes(10**7))
    with pytest.raises(BundleError, match="its entries are compressed"):
        read(bundle)
    for wrong in (content + b"more", b"before" + content, content[:-30], b"", b"no zip" * 99):
        bundle.write_bytes(wrong)
        with pytest.raises(BundleError, match=r"made\.zip: .*; save it again"):
            read(bundle)


def test_what_is_too_large_is_not_read(tmp_path, monkeypatch):
    bundle = write_bundle(tmp_path / "made.zip", MEMBERS, FORMAT)
    monkeypatch.setattr(bundles, "LARGEST", 500)
    with pytest.raises(BundleError, match="is larger than 500 bytes"):
        read(bundle)


def test_other_things_than_files_are_refused(tmp_path):
    with pytest.raises(BundleError, match=r"none\.zip: there is no such bundle"):
        read(tmp_path / "none.zip")
    with pytest.raises(BundleError, match=r"manifest\.json: is missing"):
        read(tmp_path)
    folder = write_bundle(tmp_path / "made", MEMBERS, FORMAT)
    (tmp_path / "outside").write_bytes(MEMBERS["numbers.bin"])
    kinds = {
        "link": lambda path: path.symlink_to(tmp_path / "outside"),
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
    }
    for make in kinds.values():
        path = folder / "numbers.bin"
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        make(path)
        with pytest.raises(BundleError, match=r"made: numbers\.bin is no regular file"):
            read(folder)
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(BundleError, match=r"pipe\.zip: it is a directory, a pipe"):
        read(tmp_path / "pipe.zip")


def test_a_folder_with_other_files_is_not_written_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WriteError, match=r"holds notes\.txt already; give a new or an empty"):
        write_bundle(tmp_path, MEMBERS, FORMAT)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(WriteError, match="cannot be written"):
        write_bundle(tmp_path / "notes.txt", MEMBERS, FORMAT)


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    """If writing ends before, what is there is refused."""
    for ends in (1, 2):
        written = []

        def stop(path, content, ends=ends, written=written):
            if len(written) == ends:
                raise WriteError("the disk is full")
            written.append(path.name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)

        monkeypatch.setattr(bundles, "write_whole", stop)
        folder = tmp_path / f"made{ends}"
        with pytest.raises(WriteError):
            write_bundle(folder, MEMBERS, FORMAT)
        assert written == [*MEMBERS][:ends]
        with pytest.raises(BundleError, match=r"manifest\.json: is missing; the bundle was not"):
            read(folder)
    with zipfile.ZipFile(tmp_path / "order.zip", "w"):
        pass
    monkeypatch.undo()
    write_bundle(tmp_path / "order.zip", MEMBERS, FORMAT)
    with zipfile.ZipFile(tmp_path / "order.zip") as archive:
        assert archive.namelist() == [*MEMBERS, MANIFEST]


@pytest.mark.parametrize("harm", HARMS)
def test_any_harm_is_refused_or_changes_nothing(harm, tmp_path):
    """Some bytes of a .zip, such as a date, are of no member."""
    bundle = write_bundle(tmp_path / "made.zip", MEMBERS, FORMAT)
    content = bundle.read_bytes()
    refused = 0

    @given(st.integers(1, len(content) - 1))
    @fuzzed(150)
    def check(place):
        nonlocal refused
        bundle.write_bytes(HARMS[harm](content, place))
        try:
            members = read(bundle)
        except BundleError:
            refused += 1
        else:
            assert members == MEMBERS

    check()
    assert refused > 50


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_numbers_come_back_bit_for_bit(dtype):
    values = torch.tensor([0.1, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45], dtype=dtype)
    back = unpack_tensors(pack_tensors({"a": values, "b": values.view(2, 3).T}))
    assert torch.equal(back["a"].view(torch.uint8), values.view(torch.uint8))
    assert torch.equal(back["b"].isnan(), values.view(2, 3).T.isnan())
    assert back["b"].shape == (3, 2)


def test_no_tensors_and_no_json_are_refused():
    for content in (b"", b"x" * 99, struct.pack("<Q", 2**63), pack_tensors({})[:4]):
        with pytest.raises(ValueError, match=r"\S"):
            unpack_tensors(content)
    for content in (b"", b"NaN\n", b'{"a": 1, "a": 2}\n', b"\xff", to_json({"a": 1})[:-1]):
        with pytest.raises(ValueError, match="is no"):
            from_json(content)
    values = {"b": [1.5, None], "a": "\ud800é"}
    assert from_json(to_json(values)) == values
