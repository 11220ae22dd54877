"""Products of rows with one large matrix that never changes: laid out once, where a BLAS lays it out at every call.

For four rows and 12,101 columns that takes a sixth of the time. onnxruntime does it for the constants of a graph, so
the matrix becomes the one constant of a graph of one node, written here in ONNX's wire form: the package ``onnx`` is
not among what inference installs.

Source: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (field numbers),
https://protobuf.dev/programming-guides/encoding (wire form).
"""

import numpy as np
import onnxruntime as ort

_FLOAT = 1  # TensorProto.DataType
_IR_VERSION, _OPSET = 10, 20
_MOST_BYTES = 1 << 30  # of a graph; ONNX allows twice that


class ConstantProduct:
    """``rows @ matrix`` on one thread.

    Args:
        matrix: float32 [n, m].
    """

    def __init__(self, matrix: np.ndarray) -> None:
        columns = max(1, _MOST_BYTES // (4 * len(matrix)))
        self.parts = [
            _open(_product_graph(matrix[:, first : first + columns])) for first in range(0, matrix.shape[1], columns)
        ]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows float32 [k, n] times the matrix, float32 [k, m]."""
        found = [part.run(None, {"rows": rows})[0] for part in self.parts]
        return np.asarray(found[0] if len(found) == 1 else np.concatenate(found, axis=1))


def _open(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _product_graph(matrix: np.ndarray) -> bytes:
    """A ModelProto: ``product = MatMul(rows, matrix)``."""
    height, width = matrix.shape
    constant = [_number(1, height), _number(1, width), _number(2, _FLOAT), _text(8, "matrix")]
    constant.append(_field(9, np.ascontiguousarray(matrix, dtype="<f4").tobytes()))
    node = [_text(1, "rows"), _text(1, "matrix"), _text(2, "product"), _text(4, "MatMul")]
    graph = [
        _field(1, *node),
        _text(2, "product"),
        _field(5, *constant),
        _field(11, *_value("rows", height)),
        _field(12, *_value("product", width)),
    ]
    return b"".join([_number(1, _IR_VERSION), _field(7, *graph), _field(8, _number(2, _OPSET))])


def _value(name: str, width: int) -> list[bytes]:
    """A ValueInfoProto: float32 [k, ``width``]."""
    shape = [_field(1, _text(2, "k")), _field(1, _number(1, width))]
    tensor = [_number(1, _FLOAT), _field(2, *shape)]
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
