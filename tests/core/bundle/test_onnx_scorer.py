"""The product of queries and item keys against NumPy's, exact and rounded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from genrec_core.bundle.onnx_scorer import KeysProduct, rounded_keys
from genrec_core.export.onnx import write_item_logits

ProductOf = Callable[..., KeysProduct]


@pytest.fixture
def product_of(tmp_path: Path) -> ProductOf:
    def of(keys: np.ndarray, int8: bool = False) -> KeysProduct:
        write_item_logits(tmp_path / "item_logits.onnx", int8)
        return KeysProduct(tmp_path / "item_logits.onnx", keys, int8)

    return of


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("items", [1, 7, 300])
@pytest.mark.parametrize("users", [0, 1, 2, 5, 64])
def test_it_is_the_product(product_of: ProductOf, users: int, items: int) -> None:
    keys, queries = normal(items, 200), normal(users, 200)
    np.testing.assert_allclose(product_of(keys).all_logits(queries), queries @ keys.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("users", [0, 1, 5])
def test_rounded_it_is_nearly_the_product(product_of: ProductOf, users: int) -> None:
    keys = normal(300, 200) * np.logspace(-3, 3, 300, dtype=np.float32)[:, None]
    keys[7] = 0
    queries = normal(users, 200)
    logits, exact = product_of(keys, int8=True).all_logits(queries), queries @ keys.T
    assert not logits[:, 7].any()
    error = np.abs(logits - exact) / np.maximum(np.linalg.norm(keys, axis=1), 1e-9)
    assert error.max(initial=0) < 0.07


def test_two_rounded_products_never_exceed_16_bits() -> None:
    keys = rounded_keys(normal(40, 64))["keys"]
    assert np.abs(keys.astype(int)).max() * 255 * 2 <= np.iinfo(np.int16).max


def test_rounded_keys_are_nearly_the_keys() -> None:
    keys = normal(40, 64)
    rounded = rounded_keys(keys)
    largest = np.abs(keys).max(axis=1, keepdims=True)
    assert (np.abs((rounded["keys"] * rounded["scales"]).T - keys) <= largest / 64 * 0.501).all()


@pytest.mark.parametrize("int8", [True, False])
def test_a_row_is_the_same_beside_any_others(product_of: ProductOf, int8: bool) -> None:
    product = product_of(normal(40, 64), int8=int8)
    queries = normal(6, 64) * np.logspace(-2, 2, 6, dtype=np.float32)[:, None]
    queries[2] = 0
    together = product.all_logits(queries)
    np.testing.assert_array_equal(np.concatenate([product.all_logits(row[None]) for row in queries]), together)
    assert not together[2].any()


def test_the_graphs_are_what_onnx_reads(tmp_path: Path) -> None:
    for int8 in (False, True):
        write_item_logits(tmp_path / "graph.onnx", int8)
        # The shapes of onnxruntime's own operator are unknown to ONNX's checker.
        onnx.checker.check_model(onnx.load(tmp_path / "graph.onnx"), full_check=not int8)
