"""A release keeps what it was trained on, and says so where it does not."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_core.errors import GenrecError
from genrec_core.monitoring.drift import Profile, read_profile, write_profile


@pytest.fixture
def release(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    np.save(tmp_path / "model" / "item_ids.npy", np.array([1, 2, 9, 4]))
    np.save(tmp_path / "model" / "popularity.npy", np.array([5, 6, 7, 8]))
    return tmp_path


def test_what_is_kept_is_read_again_in_the_order_of_ids(release: Path) -> None:
    histories = pl.DataFrame({"user_id": ["a", "b", "c"], "item_ids": [[1, 2, 4], [1], [2, 4, 9]]})
    write_profile(release, histories)
    profile = read_profile(release)
    assert profile.item_ids.tolist() == [1, 2, 4, 9]
    assert profile.popularity.tolist() == [5, 6, 8, 7]
    assert profile.lengths.tolist() == Profile.of(histories).lengths.tolist() == [0, 1, 0, 2]


def test_popularity_is_counted_on_the_training_part_alone() -> None:
    profile = Profile.of(pl.DataFrame({"user_id": ["a", "b"], "item_ids": [[4, 4, 1, 2], [1, 9]]}))
    assert dict(zip(profile.item_ids.tolist(), profile.popularity.tolist(), strict=True)) == {1: 1, 2: 0, 4: 2, 9: 1}


def test_a_release_without_a_profile_is_named(release: Path) -> None:
    with pytest.raises(GenrecError, match=r"profile\.json: no such file"):
        read_profile(release)
    (release / "profile.json").write_text('{"users": 3}')
    with pytest.raises(GenrecError, match=r"profile\.json: has no 'history_lengths'"):
        read_profile(release)
