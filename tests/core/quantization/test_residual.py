"""The residual quantiser: each level lowers the error, and what is stored encodes as what was fitted."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec_core.errors import GenrecError
from genrec_core.quantization import residual
from genrec_core.quantization.quantizer import find_codes
from genrec_core.quantization.residual import ResidualQuantizer
from genrec_core.settings import SemanticIdSettings

torch.set_num_threads(1)
KINDS = ["none", "l2"]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 12)) * 2
    return (centres[rng.integers(30, size=1300)] + rng.normal(size=(1300, 12)) + 1).astype(np.float32)


def settings(**given: Any) -> SemanticIdSettings:
    return SemanticIdSettings.model_validate({"codebook_size": 16, "iterations": 20, **given})


@pytest.mark.parametrize("kind", KINDS)
def test_each_level_lowers_the_error(vectors: np.ndarray, kind: str) -> None:
    quantizer = ResidualQuantizer.fit(vectors, settings(transform=kind))

    errors = quantizer.errors_by_level(vectors, quantizer.encode(vectors))

    assert len(errors) == 4
    assert all(later < 0.9 * earlier for earlier, later in pairwise(errors))


def test_many_vectors_are_clustered_by_a_sample_of_them(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ResidualQuantizer.fit(vectors, settings())
    monkeypatch.setattr(residual, "FIT_ROWS", 700)
    monkeypatch.setattr(residual, "_FIT_ROWS_A_CENTROID", 40)
    sampled, again, all_rows = (ResidualQuantizer.fit(vectors, settings(codebook_size=size)) for size in (16, 16, 33))
    np.testing.assert_array_equal(sampled.codebooks, again.codebooks)
    assert not np.array_equal(sampled.codebooks, whole.codebooks)
    error, of_sample = (fit.errors_by_level(vectors, fit.encode(vectors))[-1] for fit in (whole, sampled))
    assert error < of_sample < 1.2 * error
    monkeypatch.undo()
    np.testing.assert_array_equal(
        all_rows.codebooks, ResidualQuantizer.fit(vectors, settings(codebook_size=33)).codebooks
    )


def test_the_first_error_is_the_variance_and_the_last_what_decoding_leaves(vectors: np.ndarray) -> None:
    quantizer = ResidualQuantizer.fit(vectors, settings(transform="none", levels=2))
    codes = quantizer.encode(vectors)
    decoded = quantizer.codebooks[0][codes[:, 0]] + quantizer.codebooks[1][codes[:, 1]]

    errors = quantizer.errors_by_level(vectors, codes)

    assert errors[0] == pytest.approx(vectors.var(axis=0).sum(), rel=1e-5)
    assert errors[2] == pytest.approx(np.square(vectors - decoded).sum(axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stored_codebooks_give_the_same_codes(vectors: np.ndarray, kind: str, tmp_path: Path) -> None:
    quantizer = ResidualQuantizer.fit(vectors, settings(transform=kind))
    quantizer.save(tmp_path)
    codes = quantizer.encode(vectors)

    assert codes.dtype == np.int32
    np.testing.assert_array_equal(ResidualQuantizer.load(tmp_path).encode(vectors), codes)
    np.testing.assert_array_equal(quantizer.encode(vectors[77:78]), codes[77:78])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_fits_codebooks_as_good(vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cuda = ResidualQuantizer.fit(vectors, settings())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = ResidualQuantizer.fit(vectors, settings())

    last = [quantizer.errors_by_level(vectors, quantizer.encode(vectors))[-1] for quantizer in (on_cpu, on_cuda)]
    assert last[1] == pytest.approx(last[0], rel=0.02)


def test_a_seed_repeats_and_another_differs(vectors: np.ndarray) -> None:
    one, again, other = (ResidualQuantizer.fit(vectors, settings(seed=seed)).encode(vectors) for seed in (1, 1, 2))

    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_levels_may_differ_in_size(vectors: np.ndarray) -> None:
    quantizer = ResidualQuantizer.fit(vectors, settings(codebook_sizes=[20, 10, 5]))

    assert quantizer.sizes == (20, 10, 5)
    assert quantizer.encode(vectors).max(axis=0).tolist() == [19, 9, 4]


def test_a_codebook_larger_than_the_distinct_vectors_names_both(vectors: np.ndarray) -> None:
    copies = np.repeat(vectors[:10], 9, axis=0)

    with pytest.raises(GenrecError, match="codebook size 16 exceeds the 10 distinct item vectors; set codebook_size"):
        ResidualQuantizer.fit(copies, settings())


def test_later_levels_may_have_less_to_cluster_than_centroids(vectors: np.ndarray) -> None:
    few = vectors[:18]
    quantizer = ResidualQuantizer.fit(few, settings(transform="none"))

    assert quantizer.errors_by_level(few, quantizer.encode(few))[-1] == pytest.approx(0, abs=1e-9)
    assert all(np.isfinite(codebook).all() for codebook in quantizer.codebooks)


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_vector_among_the_items_is_coded(vectors: np.ndarray, kind: str) -> None:
    with_zero = np.vstack([vectors, np.zeros((1, 12), np.float32)])

    codes = ResidualQuantizer.fit(with_zero, settings(transform=kind)).encode(with_zero)

    assert ((codes >= 0) & (codes < 16)).all()


def test_vectors_that_are_not_finite_are_refused(vectors: np.ndarray) -> None:
    broken = vectors.copy()
    broken[4, 2] = np.inf
    quantizer = ResidualQuantizer.fit(vectors, settings(levels=1))

    with pytest.raises(GenrecError, match="the first is row 4"):
        ResidualQuantizer.fit(broken, settings())
    with pytest.raises(GenrecError, match="the first is row 4"):
        find_codes(quantizer, broken)


def test_vectors_too_large_for_float32_distances_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(GenrecError, match="distances overflow; set transform to l2"):
        ResidualQuantizer.fit(vectors * np.float32(1e18), settings(transform="none"))

    ResidualQuantizer.fit(vectors * np.float32(1e18), settings(transform="l2"))


def test_a_codebook_of_another_shape_is_refused(vectors: np.ndarray, tmp_path: Path) -> None:
    ResidualQuantizer.fit(vectors, settings()).save(tmp_path)
    np.save(tmp_path / "centroids_1.npy", np.zeros((16, 5), np.float32))

    with pytest.raises(GenrecError, match=r"centroids_1.npy: shape \(16, 5\) instead of \(16, 12\)"):
        ResidualQuantizer.load(tmp_path)


def test_a_missing_codebook_is_named(vectors: np.ndarray, tmp_path: Path) -> None:
    ResidualQuantizer.fit(vectors, settings()).save(tmp_path)
    (tmp_path / "centroids_2.npy").unlink()

    with pytest.raises(GenrecError, match=r"centroids_2.npy: no such file"):
        ResidualQuantizer.load(tmp_path)


def one_codebook(kind: str, codebook: np.ndarray) -> ResidualQuantizer:
    return ResidualQuantizer(kind, (codebook.astype(np.float32),))


def test_l2_codes_a_vector_by_its_direction_and_none_by_its_place() -> None:
    codebook, vector = np.array([[1, 0], [0, 1], [0, 9]]), np.array([[0, 8]], np.float32)

    assert one_codebook("l2", codebook).encode(vector).tolist() == [[1]]
    assert one_codebook("none", codebook).encode(vector).tolist() == [[2]]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_another_width_are_refused(kind: str) -> None:
    with pytest.raises(GenrecError, match=r"shape \(2, 5\) do not fit the codebooks, which were fitted on \[n, 6\]"):
        find_codes(one_codebook(kind, np.eye(6)), np.zeros((2, 5), np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_transform_is_read_again(tmp_path: Path, kind: str) -> None:
    one_codebook(kind, np.eye(6)).save(tmp_path)

    assert json.loads((tmp_path / "transform.json").read_text()) == {"kind": kind, "dim": 6}
    assert ResidualQuantizer.load(tmp_path).transform == kind


@pytest.mark.parametrize("kind", ["log", "standardize", "pca_whiten"])
def test_a_stored_transform_that_this_version_does_not_have_is_refused(tmp_path: Path, kind: str) -> None:
    one_codebook("l2", np.eye(6)).save(tmp_path)
    (tmp_path / "transform.json").write_text(json.dumps({"kind": kind, "dim": 6}))

    with pytest.raises(GenrecError, match=rf"transform.json: kind '{kind}' is unknown; build the semantic IDs again"):
        ResidualQuantizer.load(tmp_path)
