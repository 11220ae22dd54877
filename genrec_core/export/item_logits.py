"""Writes the graph that multiplies queries with the item keys. Keys are an input, so that items can be added later."""

from pathlib import Path

import onnx

_FP32 = """
<ir_version: 10, opset_import: ["": 20]>
item_logits (float[users, width] queries, float[items, width] keys) => (float[users, items] logits)
{
    logits = Gemm <transB = 1> (queries, keys)
}
"""
# A row's numbers become -127..127 around 128 in uint8, whatever users are in the batch. A row of zeros stays zero.
_INT8 = """
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


def write_item_logits(path: Path, int8: bool = False) -> None:
    """Write the graph, for keys in float32 or as :func:`genrec_core.bundle.onnx_scorer.rounded_keys` rounds them."""
    onnx.save(onnx.parser.parse_model(_INT8 if int8 else _FP32), path)
