"""Compares the exported model with the trained one on the same users, and measures the time of a single user."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec_core.embedding.item_embeddings import ItemEmbeddings
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.recommend.recommender import Ranking, Recommender

_WARM_UP_USERS = 3


@dataclass(frozen=True)
class Agreement:
    """How alike the lists of the trained and the exported model are."""

    users: int
    identical: int  # users with the same items in the same places
    alike: int  # those, and users whose lists differ only where scores tie within the tolerance
    invalid: int  # entries of the exported model's lists that are no item of the catalogue, repeated, or seen before
    shared: float  # mean share of a user's items that both lists hold


def compare_with_trained(
    model: Path,
    checkpoint: Path,
    semantic_ids: Path,
    embeddings: Path,
    histories: list[list[int]],
    *,
    top_k: int,
    beams: int,
    tolerance: float,
) -> Agreement:
    """Rank unseen items for users with the trained model and with its export.

    Args:
        model, checkpoint, semantic_ids, embeddings: the folders of the exported model and of what it was made from.
        histories: item ids of each user.
        tolerance: items whose scores differ by at most this may change places.
    """
    from genrec_core.tiger.scorer import TorchScorer, ranking_weights

    ids, exported = SemanticIds.load(semantic_ids), Recommender.from_folder(model)
    scorer = TorchScorer.from_folder(checkpoint, ids.codes, ItemEmbeddings.load(embeddings).l2norm)
    popularity, weights = np.zeros(len(ids.item_ids), dtype=np.int64), ranking_weights(scorer.model.config)
    trained = Recommender(scorer, ids.item_ids, ids.codes, ids.level_sizes, popularity, exported.max_history, weights)
    first, second = (recommender.rank(histories, top_k, beams=beams) for recommender in (trained, exported))
    return _agreement(first, second, histories, exported.item_ids, tolerance)


def single_user_milliseconds(model: Path, histories: list[list[int]], top_k: int, beams: int) -> np.ndarray:
    """Time of each user served alone, after a few to warm up, float64 [users]."""
    recommender, milliseconds = Recommender.from_folder(model), []
    for history in [*histories[:_WARM_UP_USERS], *histories]:
        began = time.perf_counter()
        recommender.recommend([history], top_k, beams)
        milliseconds.append(1000 * (time.perf_counter() - began))
    return np.array(milliseconds[-len(histories) :])


def _agreement(
    first: Ranking, second: Ranking, histories: list[list[int]], catalog: np.ndarray, tolerance: float
) -> Agreement:
    """Compare place by place: where scores are equal at every place, only ties can have changed places."""
    lists = [(first.of(user), second.of(user)) for user in range(len(histories))]
    identical = np.array([np.array_equal(a, b) for a, b in lists])
    close = np.isclose(first.scores, second.scores, rtol=0.0, atol=tolerance, equal_nan=True).all(axis=1)
    invalid = 0
    for (_, items), seen in zip(lists, histories, strict=True):
        invalid += (~np.isin(items, catalog)).sum() + len(items) - len(np.unique(items)) + np.isin(items, seen).sum()
    shared = np.mean([np.isin(a, b).mean() if len(a) else 1.0 for a, b in lists])
    return Agreement(len(lists), int(identical.sum()), int((identical | close).sum()), int(invalid), float(shared))
