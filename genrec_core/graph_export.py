"""Writes ONNX graphs: traces torch modules, and rounds the weights of what was written. Needs torch and onnx."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_SMALLEST_SIDE = 32  # of a matrix that is worth rounding; smaller ones sum heads
Inputs = dict[str, np.ndarray]  # of one call of a graph


def export_graph(
    module: nn.Module, inputs: dict[str, Tensor], dynamic: tuple[Any, ...], outputs: list[str], path: Path
) -> None:
    """Trace ``module``, which is put into evaluation mode, and write it as one ONNX file.

    ``inputs`` are examples in the order of the module's arguments, ``dynamic`` names the dynamic axes of each.
    """
    # The fused attention kernel of the CPU has strides that the exporter cannot view, so the plain one is traced.
    with sdpa_kernel(SDPBackend.MATH), _without_advice():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=dynamic,
            verbose=False,
        )
    assert program is not None  # as dynamo is set
    program.save(path)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the warnings of torch's exporter and onnxruntime's quantiser: a user can do nothing about them."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec", category=FutureWarning)
            yield
    finally:
        logging.disable(level)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Gives the quantiser the inputs of one call after the other."""

    def __init__(self, inputs: list[Inputs]) -> None:
        self.left = iter(inputs)

    def get_next(self) -> Inputs | None:
        return next(self.left, None)


def quantize_graph(path: Path, inputs: list[Inputs] | None = None) -> None:
    """Round a graph's weight matrices to 7 bits, in place; products of two computed matrices stay as they are.

    With 8 bits, sums of two products with uint8 exceed the 16 bits in which processors without VNNI keep them.

    Args:
        inputs: of some calls. The other factors are rounded by their ranges in these; None: by the range of each call.
    """
    model = onnx.load(path)
    _drop_leading_ones(model)
    onnx.save(model, path)
    options: dict[str, Any] = {
        "per_channel": True,
        "reduce_range": True,
        "weight_type": QuantType.QInt8,
        "nodes_to_exclude": _products_to_keep(model),
    }
    if inputs is None:
        with _without_advice():  # MatMul alone, as it turns Gemm into MatMul and Add
            quantize_dynamic(path, path, op_types_to_quantize=["MatMul"], **options)
        return
    operators = ["MatMul", "Gemm"]
    options["activation_type"] = QuantType.QUInt8  # times int8: what processors have instructions for
    options["extra_options"] = {"OpTypesToExcludeOutputQuantization": operators}
    with _without_advice():
        quantize_static(path, path, _Reader(inputs), op_types_to_quantize=operators, **options)


def _drop_leading_ones(model: ModelProto) -> None:
    """Make matrices of weights [1, in, out] plain ones, whose columns can have scales of their own."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and len(weight.dims) == 3 and weight.dims[0] == 1:
            plain = np.ascontiguousarray(numpy_helper.to_array(weight)[0])
            weight.CopyFrom(numpy_helper.from_array(plain, weight.name))


def _products_to_keep(model: ModelProto) -> list[str]:
    """Names of the products that stay as they are: of computed matrices, of stacks of them, of small ones."""
    sides = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        and (len(sides.get(node.input[1], [])) != 2 or min(sides[node.input[1]]) < _SMALLEST_SIDE)
    ]
