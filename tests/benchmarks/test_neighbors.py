"""The benchmark of the neighbours measures what the cells find."""

from pathlib import Path

import numpy as np

from tests.benchmarks import neighbors as benchmark


def test_the_figures_are_of_each_size_and_of_given_vectors(tmp_path: Path) -> None:
    figures = benchmark.run(items=(300, 600), count=8)
    assert set(figures["by_items"]) == {"300", "600"}
    assert all(size["recall"] > 0.99 and size["peak_mb"] > 0 for size in figures["by_items"].values())
    np.save(tmp_path / "vectors.npy", benchmark.clustered_vectors(400))
    assert list(benchmark.run(count=8, vectors=tmp_path / "vectors.npy")["by_items"]) == ["400"]


def test_the_recall_is_the_share_of_the_exact_neighbours() -> None:
    vectors = benchmark.clustered_vectors(50)
    order = np.argsort(-(vectors @ vectors.T - 2 * np.eye(50)), axis=1, kind="stable")
    assert benchmark.recall_of(order[:, :4], vectors) == 1
    assert benchmark.recall_of(order[:, 2:6], vectors) == 0.5
