"""Coverage, exposure and misses of a file of predictions."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_core.evaluation.metrics import gini
from genrec_core.monitoring.answers import exposure_of, item_names, lists_by_title, miss_shares
from genrec_core.recommend.predict import PredictionReport

ITEMS = np.array([5, 1, 9, 7])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_place_of_every_list_counts(tmp_path: Path, suffix: str) -> None:
    lists = pl.DataFrame({"user_id": ["1", "2", "3"], "pred_1": [5, 5, 9], "pred_2": [1, None, 5]})
    path = tmp_path / f"predictions{suffix}"
    lists.write_parquet(path) if suffix == ".parquet" else lists.write_csv(path)
    exposure = exposure_of(path, ITEMS)
    assert exposure.counts.tolist() == [3, 1, 1, 0]
    assert (exposure.coverage, exposure.reachable_coverage) == (3 / 4, 3 / 4)
    assert exposure.gini == gini(np.array([1, 3, 1, 0]))


def test_few_lists_are_measured_by_what_they_could_hold(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("user_id,pred_1,pred_2\n1,5,9\n")
    exposure = exposure_of(tmp_path / "one.csv", np.arange(1000))
    assert exposure.coverage == 0.002
    assert exposure.reachable_coverage == 1


def test_no_list_shows_nothing(tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("user_id,pred_1\n")
    exposure = exposure_of(tmp_path / "none.csv", ITEMS)
    assert (exposure.places, exposure.coverage, exposure.reachable_coverage, exposure.gini) == (0, 0, 0, 0)


def test_misses_are_shares_of_entries_users_and_lines() -> None:
    report = PredictionReport(
        users=8, top_k=5, history_items=40, unknown_items=4, empty_histories=2, rejected=2, short_rows=1
    )
    assert miss_shares(report) == {
        "unknown_items": 0.1, "popular_answers": 0.25, "short_answers": 0.125, "rejected_lines": 0.2,
    }  # fmt: skip
    assert set(miss_shares(PredictionReport()).values()) == {0}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_lists_name_the_newest_items_and_the_first_recommended(tmp_path: Path, suffix: str) -> None:
    columns = {"pred_1": [30, 10, 40], "pred_2": [10, 20, None], "pred_3": [None, 30, None]}
    predictions = pl.DataFrame({"user_id": ["a", "b", "c"], **columns})
    path = tmp_path / f"predictions{suffix}"
    predictions.write_parquet(path) if suffix == ".parquet" else predictions.write_csv(path)
    names = {10: "Top Coat", 20: "Base Coat", 30: "Soap", 50: "item 50"}
    histories = [("b", [50, 10, 30]), ("not served", [10]), ("c", [])]
    assert lists_by_title(names, histories, path, items=2) == [
        {"user": "b", "bought, newest first": "Soap; Top Coat", "recommended": "Top Coat; Base Coat"},
        {"user": "c", "bought, newest first": "", "recommended": "item 40, unknown"},
    ]


def test_a_model_without_its_catalogue_names_items_by_their_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "item_ids.npy", np.array([7, 3]))
    assert item_names(tmp_path) == {7: "item 7", 3: "item 3"}
