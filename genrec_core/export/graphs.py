"""Writes ONNX graphs: of torch modules, and the one that multiplies queries with the item keys."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from genrec_core.errors import GenrecError

# The item keys are an input, so that items can be added later.
_ITEM_LOGITS = """
<ir_version: 10, opset_import: ["": 20]>
item_logits (float[users, width] queries, float[items, width] keys) => (float[users, items] logits)
{
    logits = Gemm <transB = 1> (queries, keys)
}
"""
# A row's numbers become -127..127 around 128 in uint8, whatever users are in the batch. A row of zeros stays zero.
_ITEM_LOGITS_INT8 = """
<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
item_logits (float[users, width] queries, int8[width, items] keys, float[items] scales) => (float[users, items] logits)
<float step = {0.00787401574803}, uint8 middle = {128}, float least = {1e-30}, int64[1] columns = {1}>
{
    sizes = Abs (queries)
    largest_of_row = ReduceMax <keepdims = 1> (sizes, columns)
    largest = Max (largest_of_row, least)
    shares = Div (queries, largest)
    rounded = QuantizeLinear (shares, step, middle)
    product = com.microsoft.MatMulIntegerToFloat (rounded, keys, step, scales, middle)
    logits = Mul (product, largest)
}
"""


def export_graph(
    module: nn.Module, inputs: dict[str, Tensor], dynamic: tuple[Any, ...], outputs: list[str], path: Path
) -> None:
    """Trace ``module``, which is put into evaluation mode, and write it as one ONNX file.

    Args:
        inputs: example inputs by name, in the order of the module's arguments.
        dynamic: names of the dynamic axes of each input, by axis.
        outputs: names of the outputs.
    """
    # The fused attention kernel of the CPU has strides that the exporter cannot view, so the plain one is traced.
    with sdpa_kernel(SDPBackend.MATH), without_advice():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=dynamic,
            verbose=False,
        )
    if program is None:
        raise GenrecError(f"{path}: torch.onnx gave no program; install the pinned torch, onnx and onnxscript")
    program.save(path)


@contextmanager
def without_advice() -> Iterator[None]:
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


def write_item_logits(path: Path, int8: bool = False) -> None:
    """Write the graph, for keys in float32 or as :func:`genrec_core.bundle.onnx_scorer.rounded_keys` rounds them."""
    onnx.save(onnx.parser.parse_model(_ITEM_LOGITS_INT8 if int8 else _ITEM_LOGITS), path)
