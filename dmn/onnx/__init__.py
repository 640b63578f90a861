"""Logits and maps as one ONNX graph, which runs where PyTorch does not."""

from dmn.onnx.export import export
from dmn.onnx.parity import Parity, check_parity
from dmn.onnx.program import explanation, export_program

__all__ = ["Parity", "check_parity", "explanation", "export", "export_program"]
