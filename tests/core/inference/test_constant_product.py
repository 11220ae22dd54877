"""The product against NumPy's, its graph against ONNX's own checker."""

import numpy as np
import onnx
import pytest

from genrec_core.inference import constant_product
from genrec_core.inference.constant_product import ConstantProduct


@pytest.mark.parametrize("columns", [1, 7, 300])
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 64])
def test_it_is_the_product(rows, columns):
    random = np.random.default_rng(0)
    matrix = random.normal(size=(200, columns)).astype(np.float32)
    left = random.normal(size=(rows, 200)).astype(np.float32)
    np.testing.assert_allclose(ConstantProduct(matrix)(left), left @ matrix, rtol=1e-4, atol=1e-4)


def test_a_matrix_larger_than_a_graph_may_be_is_cut_by_columns(monkeypatch):
    monkeypatch.setattr(constant_product, "_MOST_BYTES", 4 * 3 * 2)
    matrix = np.arange(15, dtype=np.float32).reshape(3, 5)
    product = ConstantProduct(matrix)
    assert len(product.parts) == 3
    np.testing.assert_array_equal(product(np.eye(3, dtype=np.float32)), matrix)


def test_the_graph_is_what_onnx_reads():
    matrix = np.arange(600, dtype=np.float32).reshape(2, 300)
    model = onnx.load_from_string(constant_product._product_graph(matrix))
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), matrix)
