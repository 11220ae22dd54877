"""Coverage, exposure and misses of a file of predictions."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_core.evaluation.metrics import gini
from genrec_core.monitoring.answers import exposure_of, lists_with_reasons, miss_shares, why
from genrec_core.recommend.explain import Explanation, Reason
from genrec_core.recommend.predict import PredictionReport
from genrec_core.recommend.recommender import Recommender

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
def test_lists_name_the_newest_items_the_first_recommended_and_why(
    tiny_recommender: Recommender, tmp_path: Path, suffix: str
) -> None:
    ids = tiny_recommender.item_ids.tolist()
    columns = {"pred_1": [ids[5], ids[0], ids[3]], "pred_2": [ids[6], ids[1], None], "pred_3": [None, ids[2], None]}
    predictions = pl.DataFrame({"user_id": ["a", "b", "c"], **columns})
    path = tmp_path / f"predictions{suffix}"
    predictions.write_parquet(path) if suffix == ".parquet" else predictions.write_csv(path)
    history = [ids[7], ids[8], ids[9]]
    histories = [("b", history), ("not served", [ids[4]]), ("c", [])]
    first, second = lists_with_reasons(tiny_recommender, histories, path, items=2)
    newest, recommended = tiny_recommender.describe([ids[9], ids[8]]), tiny_recommender.describe([ids[0], ids[1]])
    assert first["user"] == "b"
    assert first["newest items"] == " · ".join(item.title for item in newest)
    assert first["recommended"] == " · ".join(item.title for item in recommended)
    (explanation,) = tiny_recommender.explain(history, [ids[0]], reasons=1)
    assert first["why the first"] == why(explanation, lambda items: tiny_recommender.describe(items)[0].title)
    assert (second["user"], second["newest items"]) == ("c", "")
    assert second["why the first"].startswith("no item of the history is known")
    late = lists_with_reasons(tiny_recommender, histories, path, items=2, seconds=0)
    assert [row["why the first"] for row in late] == ["", ""]


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (math.log(2.2), "soap: with it 2.2 times as likely"),
        (math.log(45), "soap: with it 45 times as likely"),
        (50.0, "soap: with it more than 1,000 times as likely"),
        (0.01, "no single item of the history"),
    ],
)
def test_an_effect_is_told_in_words(effect: float, words: str) -> None:
    reason = Reason(item_id=1, effect=effect, shared_levels=0, text_similarity=None, bought_together=None)
    explanation = Explanation(2, "dense", score=-1.0, dense_rank=1, generative_rank=None, reasons=[reason])
    assert why(explanation, lambda items: "soap") == words
