"""What is a file of weights and what is none."""

import pickle
import re
import tracemalloc

import pytest
import torch
from hostile_files import FILES, HARMS, PAYLOADS, SAVED, STATES, Payload, honest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmn.errors import CheckpointError, DmnError
from dmn.hub import load
from dmn.hub.converted import load_converted
from dmn.io.weights import (
    format_mismatches,
    limit_allocation,
    read_weights,
    state_dict_mismatches,
    truncate,
)
from dmn.train import initialise

LOADERS = {
    "read_weights": read_weights,
    "--init_from": lambda path: initialise(torch.nn.Linear(1, 1), path),
    "hub.load": lambda path: load("squeezenet1_1", _renamed(path), num_classes=2),
    "converted": lambda path: load_converted(path, torch.nn.Linear(1, 1)),
}


class Malicious:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was executed')",)


def test_files_are_read_without_executing_code(tmp_path):
    torch.save({"weight": Malicious()}, tmp_path / "evil.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Malicious(), protocol=2))
    for name in ("evil.pt", "pickle.pt"):
        with pytest.raises(CheckpointError, match=f"{name}: not a file of weights"):
            read_weights(tmp_path / name)


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt: there is no such file"):
        read_weights(tmp_path / "none.pt")
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("not weights")
        with pytest.raises(CheckpointError, match=f"{name}: not a file of weights"):
            read_weights(tmp_path / name)
    torch.save({"weight": 3}, tmp_path / "number.pt")
    with pytest.raises(
        CheckpointError, match=r"number\.pt: holds other things than weights: weight"
    ):
        read_weights(tmp_path / "number.pt")


def _renamed(path):
    """Call a checkpoint what `load` takes."""
    return path.rename(path.with_suffix(".pth")) if path.suffix == ".ckpt" else path


def refused(loader, path):
    """Return what is said of a file by a loader that has to refuse it."""
    with pytest.raises(DmnError) as caught:
        LOADERS[loader](path)
    told = str(caught.value)
    assert path.stem in told
    assert "\n" not in told
    assert len(told) < 2000
    return told


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.torture("weights in {name} are a pickle that makes a folder", "refused, none is made")
def test_payloads_are_not_run(name, tmp_path, happened):
    mark = tmp_path / "ran"
    for loader in LOADERS:
        PAYLOADS[name](Payload(mark), tmp_path / name)
        told = refused(loader, tmp_path / name)
        assert not mark.exists(), loader
    happened(told.replace(str(tmp_path), ""))


def test_the_payload_would_run(tmp_path):
    """Else the test above would prove nothing."""
    PAYLOADS["bare.pt"](Payload(tmp_path / "ran"), tmp_path / "bare.pt")
    torch.load(tmp_path / "bare.pt", weights_only=False)
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("done", STATES)
@pytest.mark.torture("a file of weights holds {done}", "refused by name")
def test_states_that_are_none_are_refused(done, tmp_path, happened):
    make, told = STATES[done]
    torch.save(make(), tmp_path / "odd.pt")
    for loader in LOADERS:
        said = refused(loader, tmp_path / "odd.pt")
        assert re.search(told, said)
    happened(said.replace(str(tmp_path), ""))


@pytest.mark.parametrize("done", FILES)
@pytest.mark.torture("a file of weights is {done}", "refused by name, in little memory")
def test_files_that_are_none_are_refused(done, tmp_path, happened):
    make, name = FILES[done]
    path = tmp_path / name
    make(path)
    for loader in LOADERS:
        tracemalloc.start()
        said = refused(loader, path if path.exists() else path.with_suffix(".pth"))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 64e6, loader
        path = path if path.exists() else path.with_suffix(".pth")
    happened(said.replace(str(tmp_path), ""))


def test_many_empty_tensors_are_read():
    """They are no fault of the file, and fit no network."""
    state = {f"empty.{index}": torch.zeros(0) for index in range(10**4)}
    faults = state_dict_mismatches(honest(), state)
    assert set(faults) == {"missing", "unexpected"}
    assert "empty.7 and 9992 more" in format_mismatches(faults)


def test_names_are_shown_short_and_plainly():
    assert truncate(["a\x1b[31m\nb"]) == "a\\x1b[31m\\nb"
    assert len(truncate(["a" * 10**6])) < 120


def test_tied_weights_are_read(tmp_path):
    """They share their numbers, and are more together than the file is long."""
    weight = torch.rand(99, 99)
    torch.save({"a": weight, "b": weight}, tmp_path / "tied.pt")
    assert torch.equal(read_weights(tmp_path / "tied.pt")["b"], weight)


def test_only_networks_about_as_large_as_their_file_are_built(tmp_path):
    state = honest()
    torch.save(state, tmp_path / "small.pt")
    for build in (
        lambda: torch.nn.Linear(10**5, 10**4),
        lambda: [torch.nn.Linear(1, 1) for _ in range(99)],
    ):
        with (
            pytest.raises(CheckpointError, match="far larger"),
            limit_allocation(tmp_path / "small.pt", state),
        ):
            build()
    torch.nn.Linear(9, 9)  # and no hook is left


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.torture("bits of {name} are flipped, cut, inserted and swapped", "refused, or finite")
def test_damaged_files_are_refused_or_sound(name, tmp_path, full, happened):
    """Files without a checksum of their own may hold other numbers, but finite ones of a kind."""
    path, state, counts = tmp_path / name, honest(), {"refused": 0, "read": 0}
    SAVED[name](state, path)
    content = path.read_bytes()

    @settings(max_examples=400 if full else 25, deadline=None, derandomize=not full, database=None)
    @given(st.sampled_from(sorted(HARMS)), st.integers(0, len(content) - 1))
    def check(harm, place):
        path.write_bytes(HARMS[harm](content, place))
        try:
            weights = read_weights(path)
        except CheckpointError as error:
            counts["refused"] += 1
            assert name in str(error)  # noqa: PT017
        else:
            counts["read"] += 1
            assert all(type(value) is torch.Tensor for value in weights.values())
            assert all(value.isfinite().all() for value in weights.values())
            assert sum(value.nbytes for value in weights.values()) <= 2 * len(content)

    check()
    assert counts["refused"]
    happened(f"{counts['refused']} refused by name, {counts['read']} read as finite weights")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.torture("arbitrary bytes are called weights{suffix}", "refused by name")
def test_arbitrary_bytes_are_refused(suffix, tmp_path, full):
    path = tmp_path / f"weights{suffix}"
    starts = st.sampled_from(
        [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}q\x00", b"\x02" + bytes(7)]
    )

    @settings(max_examples=500 if full else 40, deadline=None, derandomize=not full, database=None)
    @given(starts, st.binary(max_size=200))
    def check(start, rest):
        path.write_bytes(start + rest)
        with pytest.raises(CheckpointError, match=f"weights{suffix}"):
            read_weights(path)

    check()
