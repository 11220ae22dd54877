"""Products of rows with one large matrix that never changes: laid out once, where a BLAS lays it out at every call.

For four rows and 12,101 columns that takes a sixth of the time. onnxruntime does it for the constants of a graph, so
the matrix becomes the one constant of a graph of one node, written here in ONNX's wire form: the package ``onnx`` is
not among what inference installs.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (field numbers),
https://protobuf.dev/programming-guides/encoding (wire form).
"""

import numpy as np
import onnxruntime as ort

_IR_VERSION, _OPSET = 10, 20
_ONNXRUNTIME = "com.microsoft"  # the domain of its own operators
_TYPES = {"float32": 1, "uint8": 2, "int8": 3}  # TensorProto.DataType
_MOST_BYTES = 1 << 30  # of a graph; ONNX allows twice that
_STEPS, _MIDDLE = 127, 128  # of a row's numbers in -1..1 as uint8 around the middle
# Of a matrix' numbers as int8. Processors without VNNI add two products of uint8 and int8 in 16 bits, which saturate:
# 2 * 255 * 64 fits, 2 * 255 * 127 does not.
_MATRIX_STEPS = 64
_Node = tuple[str, str, list[str], str]  # operator, its domain, inputs, output


class ConstantProduct:
    """``rows @ matrix`` on one thread.

    Args:
        matrix: float32 [n, m].
        int8: round the matrix to 7 bits, a scale a column, and the rows to 8, a scale a row: a quarter of the bytes
            are read.
    """

    def __init__(self, matrix: np.ndarray, int8: bool = False) -> None:
        columns, graph = max(1, _MOST_BYTES // (4 * len(matrix))), _rounded_graph if int8 else _product_graph
        self.int8 = int8
        self.parts = [_open(graph(matrix[:, first : first + columns])) for first in range(0, matrix.shape[1], columns)]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows float32 [k, n] times the matrix, float32 [k, m]."""
        largest = _largest(rows, axis=1) if self.int8 else None
        given = {"rows": rows if largest is None else rows / largest}
        found = [part.run(None, given)[0] for part in self.parts]
        product = np.asarray(found[0] if len(found) == 1 else np.concatenate(found, axis=1))
        return product if largest is None else np.multiply(product, largest, out=product)


def _largest(values: np.ndarray, axis: int) -> np.ndarray:
    """The largest absolute value along an axis, which is kept; 1 where all are 0."""
    largest = np.abs(values).max(axis=axis, keepdims=True)
    return np.where(largest > 0, largest, np.float32(1))


def _open(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _product_graph(matrix: np.ndarray) -> bytes:
    """A ModelProto: ``product = MatMul(rows, matrix)``."""
    nodes: list[_Node] = [("MatMul", "", ["rows", "matrix"], "product")]
    return _graph(nodes, {"matrix": np.ascontiguousarray(matrix, dtype="<f4")})


def _rounded_graph(matrix: np.ndarray) -> bytes:
    """A ModelProto: ``product`` of rows in -1..1 and the matrix, both rounded."""
    largest = _largest(matrix, axis=0)
    nodes: list[_Node] = [
        ("QuantizeLinear", "", ["rows", "step", "middle"], "rounded"),
        ("MatMulIntegerToFloat", _ONNXRUNTIME, ["rounded", "matrix", "step", "scales", "middle"], "product"),
    ]
    constants = {
        "matrix": np.rint(matrix * (_MATRIX_STEPS / largest)).astype(np.int8),
        "scales": (largest[0] / _MATRIX_STEPS).astype("<f4"),
        "step": np.array(1 / _STEPS, dtype="<f4"),
        "middle": np.array(_MIDDLE, dtype=np.uint8),
    }
    return _graph(nodes, constants)


def _graph(nodes: list[_Node], constants: dict[str, np.ndarray]) -> bytes:
    """A ModelProto that makes ``product`` of ``rows`` and the constants, the ``matrix`` among them."""
    height, width = constants["matrix"].shape
    graph = [
        *(_field(1, *_operation(*node)) for node in nodes),
        _text(2, "product"),
        *(_field(5, *_tensor(name, array)) for name, array in constants.items()),
        _field(11, *_value("rows", height)),
        _field(12, *_value("product", width)),
    ]
    opsets = [_field(8, _number(2, _OPSET)), _field(8, _text(1, _ONNXRUNTIME), _number(2, 1))]
    return b"".join([_number(1, _IR_VERSION), _field(7, *graph), *opsets])


def _operation(operator: str, domain: str, inputs: list[str], output: str) -> list[bytes]:
    """A NodeProto."""
    return [*(_text(1, name) for name in inputs), _text(2, output), _text(4, operator), _text(7, domain)]


def _tensor(name: str, array: np.ndarray) -> list[bytes]:
    """A TensorProto."""
    kind = _number(2, _TYPES[array.dtype.name])
    return [*(_number(1, size) for size in array.shape), kind, _text(8, name), _field(9, array.tobytes())]


def _value(name: str, width: int) -> list[bytes]:
    """A ValueInfoProto: float32 [k, ``width``]."""
    shape = [_field(1, _text(2, "k")), _field(1, _number(1, width))]
    tensor = [_number(1, _TYPES["float32"]), _field(2, *shape)]
    return [_text(1, name), _field(2, _field(1, *tensor))]


def _field(number: int, *content: bytes) -> bytes:
    """A field of bytes: a message or an array."""
    joined = b"".join(content)
    return _varint(number << 3 | 2) + _varint(len(joined)) + joined


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(digits) + bytes([value])
