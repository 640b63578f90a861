"""A program as the content of an ONNX file, by torch's exporter."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import ExportedProgram

from dmn.errors import UnsupportedError, required

OPSET = 18  # scattering that adds is since 16; what runtimes of the last years read
LARGEST = 2**31 - 2**20  # bytes, of one file of protobuf


def to_onnx(
    program: ExportedProgram,
    inputs: Sequence[str],
    outputs: Sequence[str],
    about: Mapping[str, Any],
) -> bytes:
    """Write a program as an ONNX graph of opset 18.

    Args:
        program: Of `export_program`.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
        about: Metadata; values are written as JSON.

    Returns:
        The content of the file.

    Raises:
        MissingPackageError: if onnx or onnxscript is not installed.
        UnsupportedError: if an operation has no counterpart, or the weights do not fit one file.
    """
    pass_type = shared_computations()
    weights = [*program.state_dict.values(), *program.constants.values()]
    sizes = (each.nbytes for each in weights if isinstance(each, torch.Tensor))
    if (size := sum(sizes)) > LARGEST:
        raise UnsupportedError(
            f"weights of {size / 2**30:.1f} GiB do not fit a file of ONNX, 2 GiB"
        )
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UnsupportedError(*_reasons(program, error)) from error
    assert exported is not None, "torch returns what it exports to no file"
    pass_type()(exported.model)  # of the logits' forward pass and the map's
    exported.model.producer_name = "dmn"
    exported.model.metadata_props.update({name: json.dumps(each) for name, each in about.items()})
    content: bytes = exported.model_proto.SerializeToString()
    return content


def shared_computations() -> Any:
    """Return the pass that merges equal computations, of the packages that an export needs.

    Raises:
        MissingPackageError: if one is not installed.
    """
    with required("onnx and onnxscript", "onnx"):
        import onnxscript  # noqa: F401 - torch's exporter needs it
        from onnx_ir.passes.common import CommonSubexpressionEliminationPass
    return CommonSubexpressionEliminationPass


def _reasons(program: ExportedProgram, error: Exception) -> list[str]:
    """List operations that ONNX lacks or, if none is known to be, say what torch says."""
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    missing = sorted(name for name in called if "backward" in name)
    if missing:
        return [
            "cannot be exported: ONNX has no counterpart of",
            *(f"  {name}" for name in missing),
        ]
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return [f"cannot be exported: {str(cause).strip().splitlines()[0]}"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its remarks on folded constants to itself."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
