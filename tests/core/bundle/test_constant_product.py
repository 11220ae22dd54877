"""The product against NumPy's, its graph against ONNX's own checker."""

import numpy as np
import onnx
import pytest

from genrec_core.bundle import constant_product
from genrec_core.bundle.constant_product import ConstantProduct


@pytest.mark.parametrize("columns", [1, 7, 300])
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 64])
def test_it_is_the_product(rows, columns):
    random = np.random.default_rng(0)
    matrix = random.normal(size=(200, columns)).astype(np.float32)
    left = random.normal(size=(rows, 200)).astype(np.float32)
    np.testing.assert_allclose(ConstantProduct(matrix)(left), left @ matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_rounded_it_is_nearly_the_product(rows):
    random = np.random.default_rng(0)
    matrix = random.normal(size=(200, 300)).astype(np.float32) * np.logspace(-3, 3, 300, dtype=np.float32)
    matrix[:, 7] = 0
    left = random.normal(size=(rows, 200)).astype(np.float32)
    found, exact = ConstantProduct(matrix, int8=True)(left), left @ matrix
    assert not found[:, 7].any()
    error = np.abs(found - exact) / np.maximum(np.linalg.norm(matrix, axis=0), 1e-9)
    assert error.max(initial=0) < 0.07


def test_two_rounded_products_never_exceed_16_bits():
    matrix = np.random.default_rng(0).normal(size=(64, 40)).astype(np.float32)
    graph = onnx.load_from_string(constant_product._rounded_graph(matrix)).graph
    (rounded,) = (onnx.numpy_helper.to_array(each) for each in graph.initializer if each.name == "matrix")
    assert np.abs(rounded.astype(int)).max() * 255 * 2 <= np.iinfo(np.int16).max


def test_a_rounded_row_is_the_same_beside_any_others():
    random = np.random.default_rng(0)
    product = ConstantProduct(random.normal(size=(64, 40)).astype(np.float32), int8=True)
    left = random.normal(size=(6, 64)).astype(np.float32) * np.logspace(-2, 2, 6, dtype=np.float32)[:, None]
    left[2] = 0
    together = product(left)
    np.testing.assert_array_equal(np.concatenate([product(row[None]) for row in left]), together)
    assert not together[2].any()


def test_a_matrix_larger_than_a_graph_may_be_is_cut_by_columns(monkeypatch):
    monkeypatch.setattr(constant_product, "_MOST_BYTES", 4 * 3 * 2)
    matrix = np.arange(15, dtype=np.float32).reshape(3, 5)
    product = ConstantProduct(matrix)
    assert len(product.parts) == 3
    np.testing.assert_array_equal(product(np.eye(3, dtype=np.float32)), matrix)


def test_the_graphs_are_what_onnx_reads():
    matrix = np.arange(600, dtype=np.float32).reshape(2, 300)
    model = onnx.load_from_string(constant_product._product_graph(matrix))
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), matrix)
    rounded = onnx.load_from_string(constant_product._rounded_graph(matrix))
    onnx.checker.check_model(rounded)  # shapes of onnxruntime's own operator are unknown to it
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in rounded.graph.initializer}
    np.testing.assert_allclose(constants["matrix"] * constants["scales"], matrix, atol=600 / 64)
