"""Random histories look like Beauty's where it matters for speed, and real ones hold nothing that is tested."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_core.errors import GenrecError
from tests.benchmarks.workload import Workload, random_histories


def test_lengths_are_beautys_on_average_and_no_item_repeats() -> None:
    histories = random_histories(3000, n_items=500, seed=0)
    assert histories.lengths.min() == 5
    assert abs(histories.lengths.mean() - 8.9) < 0.4
    for user in range(50):
        assert len(np.unique(histories.of(user))) == len(histories.of(user))


def test_a_small_catalogue_bounds_the_lengths() -> None:
    assert random_histories(100, n_items=6, seed=0).lengths.max() == 6


def test_the_seed_decides() -> None:
    first, again, other = (random_histories(20, 100, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.rows, again.rows)
    assert not np.array_equal(first.rows, other.rows)


@pytest.fixture
def histories(tmp_path: Path) -> Path:
    frame = pl.DataFrame({"user_id": ["a", "b", "c"], "item_ids": [[30, 10, 20, 40, 50], [50, 40, 10], [10, 20]]})
    frame.write_parquet(tmp_path / "histories.parquet")
    return tmp_path / "histories.parquet"


ITEM_IDS = np.array([50, 10, 20, 30, 40])


def test_real_users_come_with_what_they_had_before_the_validation_item(histories: Path) -> None:
    workload = Workload.of(ITEM_IDS, histories)
    assert workload.name == "validation users"
    found = sorted(ITEM_IDS[rows].tolist() for rows in workload.drawn(2, seed=0))
    assert found == [[30, 10, 20], [50]]  # the last two items are never read, nor a user who has no more
    assert len(workload.drawn(7, seed=0)) == 7


def test_histories_are_random_where_wanted_or_where_the_storage_has_none(
    histories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_STORAGE", str(tmp_path))
    for source in (None, Path("random")):
        workload = Workload.of(np.arange(500), source)
        assert workload.name == "random"
        for rows, of in zip(workload.drawn(3, seed=1), range(3), strict=True):
            np.testing.assert_array_equal(rows, random_histories(3, 500, seed=1).of(of))
    with pytest.raises(GenrecError, match="user a: item 30 is not in the catalogue"):
        Workload.of(np.arange(20), histories)


def test_histories_without_anybody_to_evaluate_are_an_error(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": ["a"], "item_ids": [[30, 10]]}).write_parquet(tmp_path / "short.parquet")
    with pytest.raises(GenrecError, match=r"short.parquet: no user of three items or more"):
        Workload.of(ITEM_IDS, tmp_path / "short.parquet")
