"""Champion and challenger on validation items: equal models tie, a better and a worse one are told apart."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from genrec_core.artifacts import write_manifest
from genrec_core.errors import GenrecError
from genrec_core.evaluation.challenge import challenge
from genrec_core.inference.recommender import POPULARITY, Recommender
from genrec_core.inference.withdrawn import withdraw
from genrec_core.settings import ReleaseSettings

if TYPE_CHECKING:
    from conftest import TinyModel

SETTINGS = ReleaseSettings(users=150, samples=200, beams=20)


@pytest.fixture(scope="module")
def histories(tiny_recommender: Recommender) -> pl.DataFrame:
    """Users whose validation item is what the tiny model recommends first or third, so that it is a good model."""
    random, ids = np.random.default_rng(1), tiny_recommender.item_ids
    past = [random.choice(ids, size=random.integers(1, 6), replace=False).tolist() for _ in range(200)]
    lists = tiny_recommender.recommend(past, 3)
    found = [int(items[2 * (user % 2)]) for user, items in enumerate(lists)]
    rows = [[*items, target, int(ids[0])] for items, target in zip(past, found, strict=True)]
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
    found = challenge(tiny_model.model_dir, tiny_model.model_dir, histories, SETTINGS)
    assert found.users == 150
    assert found.champion == found.challenger
    assert found.champion["recall@10"] == 1.0
    assert set(found.differences["ndcg@10"].values()) == {0.0}
    assert found.held_back_by("not_worse") == []
    assert found.held_back_by("better") == ["recall@10", "ndcg@10"]
    assert found.held_back_by("always") == []


def test_ndcg_is_that_of_the_validation_item(tiny_model: "TinyModel", histories: pl.DataFrame) -> None:
    found = challenge(tiny_model.model_dir, tiny_model.model_dir, histories, ReleaseSettings(samples=100))
    assert found.users == 200
    assert found.champion["ndcg@10"] == pytest.approx((1 + 1 / np.log2(4)) / 2)


def test_a_worse_model_is_held_back_and_a_better_one_is_not(
    tiny_model: "TinyModel", worse: Path, histories: pl.DataFrame
) -> None:
    lost = challenge(tiny_model.model_dir, worse, histories, SETTINGS)
    assert lost.differences["recall@10"]["high"] < 0
    assert lost.held_back_by("not_worse") == lost.held_back_by("better") == ["recall@10", "ndcg@10"]
    won = challenge(worse, tiny_model.model_dir, histories, SETTINGS)
    assert won.differences["ndcg@10"]["difference"] == -lost.differences["ndcg@10"]["difference"]
    assert won.held_back_by("not_worse") == won.held_back_by("better") == []


def test_the_test_item_is_never_read(tiny_model: "TinyModel", worse: Path, histories: pl.DataFrame) -> None:
    ids = np.load(tiny_model.model_dir / "item_ids.npy")
    others = histories.with_columns(
        item_ids=pl.concat_list(pl.col("item_ids").list.head(pl.col("item_ids").list.len() - 1), pl.lit(int(ids[-1])))
    )
    results = [challenge(worse, tiny_model.model_dir, frame, SETTINGS) for frame in (histories, others)]
    assert results[0] == results[1]


def test_a_target_that_a_catalogue_lacks_is_one_that_it_cannot_find(
    tiny_model: "TinyModel", histories: pl.DataFrame
) -> None:
    unknown = histories.with_columns(item_ids=pl.concat_list(pl.col("item_ids").list.head(1), pl.lit([10**6, 1])))
    assert challenge(tiny_model.model_dir, tiny_model.model_dir, unknown, SETTINGS).champion["recall@10"] == 0.0


def test_what_is_withdrawn_from_the_champion_counts_against_neither(
    tiny_model: "TinyModel", histories: pl.DataFrame, tmp_path: Path
) -> None:
    champion = shutil.copytree(tiny_model.model_dir, tmp_path / "champion")
    withdraw(champion, np.unique(histories["item_ids"].list.get(-2).to_numpy())[:20])
    found = challenge(champion, tiny_model.model_dir, histories, SETTINGS)
    assert found.champion == found.challenger
    assert found.champion["recall@10"] < 1.0


def test_histories_that_are_too_short_are_refused(tiny_model: "TinyModel") -> None:
    short = pl.DataFrame({"user_id": ["1"], "item_ids": [[1, 2]]})
    with pytest.raises(GenrecError, match=r"no history has three items.*release.rule"):
        challenge(tiny_model.model_dir, tiny_model.model_dir, short, SETTINGS)


def test_popularity_serves_those_without_a_known_item(tiny_model: "TinyModel") -> None:
    ids = np.load(tiny_model.model_dir / "item_ids.npy")
    best = int(ids[np.argmax(np.load(tiny_model.model_dir / POPULARITY))])
    frame = pl.DataFrame({"user_id": ["1", "2"], "item_ids": [[10**6, best, 1], [10**6, best, 2]]})
    assert challenge(tiny_model.model_dir, tiny_model.model_dir, frame, SETTINGS).champion["ndcg@10"] == 1.0
