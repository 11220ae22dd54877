"""The benchmark of the precisions reads rates after the model is loaded, and tells how near vectors are."""

import numpy as np

from genrec_core.settings import EmbeddingSettings
from tests.benchmarks import text_precision as benchmark
from tests.benchmarks.embedding_beside_a_busy_core import benchmark_texts


def test_a_reading_leaves_out_what_loading_takes() -> None:
    rate, load_s, vectors = benchmark._reading(benchmark_texts(24), EmbeddingSettings(batch_size=4))
    assert rate > 0
    assert load_s > 0
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_nearness_is_the_cosine_and_the_share_of_the_nearest_that_stay() -> None:
    vectors = np.eye(24, dtype=np.float32) + 0.05 * np.random.default_rng(0).random((24, 24), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert benchmark._agreement(vectors, vectors) == {"cosine": 1, "least_cosine": 1, "nearest_that_stay": 1}
    moved = benchmark._agreement(np.roll(vectors, 1, axis=0), vectors)
    assert moved["cosine"] < 0.5
    assert moved["nearest_that_stay"] < 1
