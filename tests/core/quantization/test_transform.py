"""The transform before k-means: repeated exactly for new items."""

import json
from pathlib import Path

import numpy as np
import pytest

from genrec_core.errors import GenrecError
from genrec_core.quantization.transform import Transform

KINDS = ["none", "l2"]
VECTORS = (np.random.default_rng(0).normal(size=(2000, 6)) @ np.diag([9, 5, 3, 2, 1, 0.5]) + 4).astype(np.float32)


def test_none_leaves_vectors_as_they_are() -> None:
    np.testing.assert_array_equal(Transform("none", 6).apply(VECTORS), VECTORS)


def test_l2_gives_length_one_and_leaves_zero() -> None:
    out = Transform("l2", 6).apply(np.array([[3, 4, 0, 0, 0, 0], [0] * 6], dtype=np.float32))

    np.testing.assert_allclose(np.linalg.norm(out, axis=1), [1, 0], atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_alone_comes_out_as_among_others(kind: str) -> None:
    transform = Transform(kind, 6)

    together = transform.apply(VECTORS)
    np.testing.assert_array_equal(transform.apply(VECTORS[1500:1501]), together[1500:1501])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_transform_gives_the_same(kind: str, tmp_path: Path) -> None:
    transform = Transform(kind, 6)
    transform.save(tmp_path)

    np.testing.assert_array_equal(Transform.load(tmp_path).apply(VECTORS), transform.apply(VECTORS))


def test_another_width_is_refused() -> None:
    with pytest.raises(GenrecError, match=r"shape \(2, 5\) do not fit the codebooks, which were fitted on \[n, 6\]"):
        Transform("l2", 6).apply(np.zeros((2, 5), np.float32))


@pytest.mark.parametrize("kind", ["log", "standardize", "pca_whiten"])
def test_a_stored_kind_that_this_version_does_not_have_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "transform.json").write_text(json.dumps({"kind": kind, "dim": 6}))

    with pytest.raises(GenrecError, match=rf"transform.json: kind is '{kind}', .*; build the semantic IDs again with"):
        Transform.load(tmp_path)
