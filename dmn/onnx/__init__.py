"""Logits and maps as one ONNX graph, which runs where PyTorch does not."""

from dmn.onnx.program import export_program

__all__ = ["export_program"]
