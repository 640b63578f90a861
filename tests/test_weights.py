"""What is a file of weights and what is none."""

import pickle

import pytest
import torch

from dmn.weights import CheckpointError, read_weights


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
