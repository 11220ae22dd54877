"""Champion and challenger on validation items: equal models tie, a better and a worse one are told apart."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from genrec_core.bundle.model_folder import POPULARITY, ModelFolder
from genrec_core.errors import GenrecError
from genrec_core.evaluation.release_comparison import Comparison, Judgement, judge
from genrec_core.recommend.recommender import Recommender
from genrec_core.settings import ReleaseSettings
from genrec_core.storage.artifacts import write_manifest

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel

SETTINGS = ReleaseSettings(users=150, samples=200, beams=20)


def compared(champion: Path, challenger: Path, histories: pl.DataFrame, settings: ReleaseSettings) -> Comparison:
    """The comparison with the champion alone."""
    return judge(challenger, {"champion": champion}, histories, settings).compared["champion"]


@pytest.fixture(scope="module")
def histories(tiny_recommender: Recommender) -> pl.DataFrame:
    """Users whose validation item is what the tiny model recommends first or third, so that it is a good model."""
    random, ids = np.random.default_rng(1), tiny_recommender.item_ids
    past = [random.choice(ids, size=random.integers(1, 6), replace=False).tolist() for _ in range(200)]
    lists = tiny_recommender.recommend(past, 3)
    targets = [int(items[2 * (user % 2)]) for user, items in enumerate(lists)]
    rows = [[*items, target, int(ids[0])] for items, target in zip(past, targets, strict=True)]
    return pl.DataFrame({"user_id": [str(user) for user in range(200)], "item_ids": rows})


@pytest.fixture(scope="module")
def worse(tiny_model: "TinyModel", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its items' names exchanged, so that it recommends others."""
    folder = shutil.copytree(tiny_model.model_dir, tmp_path_factory.mktemp("worse") / "model")
    ids = np.load(folder / "item_ids.npy")
    np.save(folder / "item_ids.npy", np.roll(ids, 7))
    write_manifest(folder)
    return folder


def test_a_model_is_neither_better_nor_worse_than_itself(tiny_model: "TinyModel", histories: pl.DataFrame) -> None:
    comparison = compared(tiny_model.model_dir, tiny_model.model_dir, histories, SETTINGS)
    assert comparison.users == 150
    assert comparison.champion == comparison.challenger
    assert comparison.champion["recall@10"] == 1.0
    assert set(comparison.differences["ndcg@10"].values()) == {0.0}
    assert comparison.outcome(0.05) == comparison.outcome(0.0) == "not worse"


def test_ndcg_is_that_of_the_validation_item(tiny_model: "TinyModel", histories: pl.DataFrame) -> None:
    comparison = compared(tiny_model.model_dir, tiny_model.model_dir, histories, ReleaseSettings(samples=100))
    assert comparison.users == 200
    assert comparison.champion["ndcg@10"] == pytest.approx((1 + 1 / np.log2(4)) / 2)


def test_a_worse_model_is_held_back_and_a_better_one_is_not(
    tiny_model: "TinyModel", worse: Path, histories: pl.DataFrame
) -> None:
    lost = compared(tiny_model.model_dir, worse, histories, SETTINGS)
    assert lost.differences["recall@10"]["high"] < 0
    assert lost.outcome(0.05) == "worse"
    won = compared(worse, tiny_model.model_dir, histories, SETTINGS)
    assert won.differences["ndcg@10"]["difference"] == -lost.differences["ndcg@10"]["difference"]
    assert won.outcome(0.05) == "better"


def of_interval(low: float, high: float) -> Comparison:
    """A comparison with a champion of 0.2 whose NDCG@10 ties, and the interval of its Recall@10."""
    tie = {"difference": 0.0, "low": 0.0, "high": 0.0}
    of_recall = {"difference": (low + high) / 2, "low": low, "high": high}
    means = {"recall@10": 0.2, "ndcg@10": 0.2}
    return Comparison(1000, means, means, {"recall@10": of_recall, "ndcg@10": tie})


@pytest.mark.parametrize(
    ("low", "high", "outcome"),  # a margin of 5 % is 0.01 here
    [
        (0.001, 0.02, "better"),
        (-0.009, 0.02, "not worse"),
        (-0.009, -0.001, "not worse"),  # a loss for sure, and a small one for sure
        (-0.02, 0.02, "cannot tell"),
        (-0.02, 0.0, "cannot tell"),
        (-0.02, -0.005, "worse"),
        (-0.03, -0.02, "worse"),
    ],
)
def test_the_interval_and_the_margin_give_the_outcome(low: float, high: float, outcome: str) -> None:
    assert of_interval(low, high).outcome(0.05) == outcome


def test_the_worse_metric_decides() -> None:
    comparison = of_interval(0.001, 0.02)
    for low, high, outcome in ((-0.02, 0.0, "cannot tell"), (-0.03, -0.02, "worse")):
        comparison.differences["ndcg@10"] = {"difference": low, "low": low, "high": high}
        assert comparison.outcome(0.05) == outcome


def test_what_cannot_be_told_is_held_back_until_a_person_accepts_it() -> None:
    judgement = Judgement({"a": of_interval(-0.02, 0.02), "b": of_interval(0.001, 0.02)}, {})
    (reason,) = judgement.held_back_by(ReleaseSettings())
    assert reason.startswith("cannot tell whether the loss to a is within 5.0%")
    assert "release.accept_undecided: true" in reason
    assert judgement.held_back_by(ReleaseSettings(accept_undecided=True)) == []
    assert judgement.held_back_by(ReleaseSettings(accept_undecided=True, rule="better")) == ["not better than a"]
    assert judgement.held_back_by(ReleaseSettings(margin=0.1)) == []


def test_a_loss_is_held_back_whatever_a_person_accepts() -> None:
    judgement = Judgement({"a": of_interval(0.001, 0.02), "b": of_interval(-0.03, -0.02)}, {})
    assert judgement.held_back_by(ReleaseSettings(accept_undecided=True)) == ["worse than b"]


def test_better_asks_for_a_gain_over_the_champion_alone() -> None:
    judgement = Judgement({"a": of_interval(0.001, 0.02), "b": of_interval(-0.009, 0.02)}, {})
    assert judgement.held_back_by(ReleaseSettings(rule="better")) == []


def test_a_model_is_also_compared_with_the_best_that_was_served_before(
    tiny_model: "TinyModel", worse: Path, histories: pl.DataFrame, tmp_path: Path
) -> None:
    """A champion that is worse than an earlier model does not lower what the next one must reach."""
    served = {"champion": worse, "older": worse, "best": tiny_model.model_dir, "damaged": tmp_path}
    judgement = judge(worse, served, histories, SETTINGS)
    assert list(judgement.compared) == ["champion", "best"]
    assert judgement.held_back_by(SETTINGS) == ["worse than best"]
    assert list(judgement.not_opened) == ["damaged"]
    assert judge(tiny_model.model_dir, served, histories, SETTINGS).held_back_by(SETTINGS) == []


def test_earlier_models_that_are_no_better_than_the_champion_add_no_comparison(
    tiny_model: "TinyModel", worse: Path, histories: pl.DataFrame
) -> None:
    served = {"champion": tiny_model.model_dir, "older": worse, "same": tiny_model.model_dir}
    judgement = judge(worse, served, histories, SETTINGS)
    assert judgement.compared == {"champion": compared(tiny_model.model_dir, worse, histories, SETTINGS)}
    assert judgement.held_back_by(SETTINGS) == ["worse than champion"]


def test_the_test_item_is_never_read(tiny_model: "TinyModel", worse: Path, histories: pl.DataFrame) -> None:
    ids = np.load(tiny_model.model_dir / "item_ids.npy")
    others = histories.with_columns(
        item_ids=pl.concat_list(pl.col("item_ids").list.head(pl.col("item_ids").list.len() - 1), pl.lit(int(ids[-1])))
    )
    results = [compared(worse, tiny_model.model_dir, frame, SETTINGS) for frame in (histories, others)]
    assert results[0] == results[1]


def test_a_target_that_a_catalogue_lacks_is_one_that_it_cannot_find(
    tiny_model: "TinyModel", histories: pl.DataFrame
) -> None:
    unknown = histories.with_columns(item_ids=pl.concat_list(pl.col("item_ids").list.head(1), pl.lit([10**6, 1])))
    assert compared(tiny_model.model_dir, tiny_model.model_dir, unknown, SETTINGS).champion["recall@10"] == 0.0


def test_what_is_withdrawn_from_the_champion_counts_against_neither(
    tiny_model: "TinyModel", histories: pl.DataFrame, tmp_path: Path
) -> None:
    champion = shutil.copytree(tiny_model.model_dir, tmp_path / "champion")
    ModelFolder(champion).withdraw(np.unique(histories["item_ids"].list.get(-2).to_numpy())[:20])
    comparison = compared(champion, tiny_model.model_dir, histories, SETTINGS)
    assert comparison.champion == comparison.challenger
    assert comparison.champion["recall@10"] < 1.0


def test_histories_that_are_too_short_are_refused(tiny_model: "TinyModel") -> None:
    short = pl.DataFrame({"user_id": ["1"], "item_ids": [[1, 2]]})
    with pytest.raises(GenrecError, match=r"no user has a validation item.*release.rule"):
        compared(tiny_model.model_dir, tiny_model.model_dir, short, SETTINGS)


def test_popularity_serves_those_without_a_known_item(tiny_model: "TinyModel") -> None:
    ids = np.load(tiny_model.model_dir / "item_ids.npy")
    best = int(ids[np.argmax(np.load(tiny_model.model_dir / POPULARITY))])
    frame = pl.DataFrame({"user_id": ["1", "2"], "item_ids": [[10**6, best, 1], [10**6, best, 2]]})
    assert compared(tiny_model.model_dir, tiny_model.model_dir, frame, SETTINGS).champion["ndcg@10"] == 1.0
