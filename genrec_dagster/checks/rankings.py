"""The exported model beside the trained one: lists of the same users, and the time of a single user."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.recommend.recommender import Ranking, Recommender
from genrec_dagster.config import ServingBoundsForm

_WARM_UP_USERS = 3


@dataclass(frozen=True)
class Agreement:
    """How alike two rankings of the same users are.

    Args:
        users: users ranked by both.
        identical: users with the same items in the same places.
        alike: those, and users whose lists differ only where scores tie within the tolerance.
        invalid: entries of the second ranking that are no item of the catalogue, repeated, or seen before.
        shared: mean share of a user's items that both rankings hold.
    """

    users: int
    identical: int
    alike: int
    invalid: int
    shared: float


def compare_with_torch(
    model: Path, checkpoint: Path, semantic_ids: Path, embeddings: Path, histories: pl.Series, bounds: ServingBoundsForm
) -> Agreement:
    """Rank items for the first users with both models, what they have seen left out.

    Args:
        model: the folder of ``onnx_encoder``.
        checkpoint: the folder of ``tiger_checkpoint``.
        semantic_ids: the folder of the codes.
        embeddings: the folder of the item vectors.
        histories: item ids of each user.
        bounds: users, list length, beams, tolerance.
    """
    chosen = histories.head(bounds.users).to_list()
    exported = Recommender.from_folder(model)
    trained = _torch_recommender(checkpoint, semantic_ids, embeddings, exported)
    first, second = (r.rank(chosen, bounds.top_k, beams=bounds.beams) for r in (trained, exported))
    return agreement(first, second, chosen, exported.item_ids, bounds.tolerance)


def agreement(
    first: Ranking, second: Ranking, histories: list[list[int]], catalog: np.ndarray, tolerance: float
) -> Agreement:
    """Compare place by place: where scores are equal at every place, only ties can have changed places."""
    lists = [(first.of(user), second.of(user)) for user in range(len(histories))]
    identical = np.array([np.array_equal(a, b) for a, b in lists])
    close = np.isclose(first.scores, second.scores, rtol=0.0, atol=tolerance, equal_nan=True).all(axis=1)
    invalid = sum(invalid_items(found, history, catalog) for (_, found), history in zip(lists, histories, strict=True))
    shared = np.mean([np.isin(a, b).mean() if len(a) else 1.0 for a, b in lists])
    return Agreement(len(lists), int(identical.sum()), int((identical | close).sum()), invalid, float(shared))


def invalid_items(found: np.ndarray, seen: list[int], catalog: np.ndarray) -> int:
    """Entries of one list of item ids that are unknown to the catalogue, repeated, or seen."""
    unknown, repeated = int((~np.isin(found, catalog)).sum()), len(found) - len(np.unique(found))
    return unknown + repeated + int(np.isin(found, seen).sum())


def single_user_milliseconds(model: Path, histories: pl.Series, bounds: ServingBoundsForm) -> np.ndarray:
    """Time of each user served alone, after a few to warm up, float64 [users]."""
    recommender, milliseconds = Recommender.from_folder(model), []
    chosen = histories.head(bounds.timed_users).to_list()
    for history in [*chosen[:_WARM_UP_USERS], *chosen]:
        began = time.perf_counter()
        recommender.recommend([history], bounds.top_k, bounds.beams)
        milliseconds.append(1000 * (time.perf_counter() - began))
    return np.array(milliseconds[-len(chosen) :])


def _torch_recommender(checkpoint: Path, semantic_ids: Path, embeddings: Path, like: Recommender) -> Recommender:
    """The trained model over the catalogue of ``like``."""
    from genrec_core.embedding.item_embeddings import ItemEmbeddings
    from genrec_core.tiger.scorer import TorchScorer, ranking_weights

    ids = SemanticIds.load(semantic_ids)
    scorer = TorchScorer.from_folder(checkpoint, ids.codes, ItemEmbeddings.load(embeddings).l2norm)
    popularity = np.zeros(len(ids.item_ids), dtype=np.int64)
    weights = ranking_weights(scorer.model.config)
    return Recommender(scorer, ids.item_ids, ids.codes, ids.level_sizes, popularity, like.max_history, weights)
