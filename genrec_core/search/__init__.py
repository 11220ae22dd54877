"""Searches over the codes of the catalogue. NumPy only: no torch, polars or onnxruntime."""
