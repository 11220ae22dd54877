"""The transform before k-means: fitted on the items, repeated exactly for new ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from genrec_core.errors import GenrecError
from genrec_core.quantization.transform import Transform
from genrec_core.settings import SemanticIdSettings

KINDS = ["none", "pca_whiten", "l2"]
VECTORS = (np.random.default_rng(0).normal(size=(2000, 6)) @ np.diag([9, 5, 3, 2, 1, 0.5]) + 4).astype(np.float32)


def fitted(kind: str, vectors: np.ndarray = VECTORS, pca_dims: int = 128) -> Transform:
    return Transform.fit(vectors, SemanticIdSettings.model_validate({"transform": kind, "pca_dims": pca_dims}))


def test_none_leaves_vectors_as_they_are() -> None:
    np.testing.assert_array_equal(fitted("none").apply(VECTORS), VECTORS)


def test_pca_whiten_gives_identity_covariance_largest_variance_first() -> None:
    transform = fitted("pca_whiten")
    out = transform.apply(VECTORS).astype(np.float64)

    np.testing.assert_allclose(np.cov(out.T, bias=True), np.eye(6), atol=1e-5)
    assert transform.scale is not None
    assert np.all(np.diff(np.linalg.norm(transform.scale, axis=0)) > 0)  # 1 / deviation rises


def test_pca_whiten_keeps_as_many_axes_as_asked_and_none_without_variance() -> None:
    flat = np.concatenate([VECTORS[:, :3], VECTORS[:, :3]], axis=1)

    assert fitted("pca_whiten", pca_dims=2).apply(VECTORS).shape == (2000, 2)
    assert fitted("pca_whiten", flat).output_dim == 3


def test_the_sign_of_an_axis_does_not_depend_on_the_order_of_the_items() -> None:
    one, other = fitted("pca_whiten"), fitted("pca_whiten", VECTORS[::-1].copy())

    np.testing.assert_allclose(one.apply(VECTORS), other.apply(VECTORS), atol=1e-4)
    assert one.scale is not None
    assert np.all(one.scale[np.abs(one.scale).argmax(axis=0), np.arange(6)] > 0)


def test_items_that_are_all_the_same_cannot_be_whitened() -> None:
    with pytest.raises(GenrecError, match="all item vectors are the same"):
        fitted("pca_whiten", np.ones((10, 3), np.float32))


def test_l2_gives_length_one_and_leaves_zero() -> None:
    out = fitted("l2").apply(np.array([[3, 4, 0, 0, 0, 0], [0] * 6], dtype=np.float32))

    np.testing.assert_allclose(np.linalg.norm(out, axis=1), [1, 0], atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_alone_comes_out_as_among_others(kind: str) -> None:
    transform = fitted(kind)

    together = transform.apply(VECTORS)
    np.testing.assert_array_equal(transform.apply(VECTORS[1500:1501]), together[1500:1501])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_transform_gives_the_same(kind: str, tmp_path: Path) -> None:
    transform = fitted(kind)
    transform.save(tmp_path)

    np.testing.assert_array_equal(Transform.load(tmp_path).apply(VECTORS), transform.apply(VECTORS))


def test_another_width_is_refused() -> None:
    with pytest.raises(GenrecError, match=r"shape \(2, 5\) do not fit the codebooks, which were fitted on \[n, 6\]"):
        fitted("l2").apply(np.zeros((2, 5), np.float32))


@pytest.mark.parametrize("kind", ["log", "standardize"])
def test_a_stored_kind_that_this_version_does_not_have_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "transform.json").write_text(json.dumps({"kind": kind, "dim": 6}))

    with pytest.raises(GenrecError, match=rf"transform.json: kind is '{kind}', .*; build the semantic IDs again with"):
        Transform.load(tmp_path)
