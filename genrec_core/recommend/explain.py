"""Why an item is recommended: what the model's own score loses without each item of the history.

The items of the history are left out one at a time, and all shortened histories are scored in one batch. An effect is
the difference of two scores, so nothing here is a guess at what the model does. Effects of several items do not add up:
the model reads the items of a history together.

Source: leave-one-out attribution, as in Li, Monroe & Jurafsky 2016, "Understanding Neural Networks through
Representation Erasure".
"""

from dataclasses import dataclass
from math import nan
from typing import NamedTuple

import numpy as np

from genrec_core.bundle.item_details import ItemDetails
from genrec_core.data.histories import padded
from genrec_core.data.ids import AnyId
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import RankingWeights
from genrec_core.search.given_items import places_of_items, scores_of_items
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import RankingMode


@dataclass(frozen=True)
class Reason:
    """One item of the history, and what the recommended item owes to it."""

    item_id: AnyId
    # The score with the whole history less the score without this item, in nats; below 0 where it counts against the
    # recommended item. If nothing is left without it, the score of a guess is taken: all items equally likely.
    effect: float
    shared_levels: int  # first numbers of the semantic ID that both items share
    text_similarity: float | None  # cosine of the text vectors; None where the model has none
    # How often both were bought within five items of a history of the training part; None where it is not stored.
    bought_together: int | None


@dataclass(frozen=True)
class Explanation:
    """Why one item stands where it does."""

    item_id: AnyId
    ranking: str  # generative, hybrid or dense: the ranking whose score this is
    score: float  # log-probability; not a number if the history holds no known item
    # The place from 1 in each ranking of the catalogue, without what this user's lists leave out. None beyond 1,000,
    # for an item that the lists leave out, and in a ranking that the model does not have.
    dense_rank: int | None
    generative_rank: int | None
    reasons: list[Reason]  # the largest effect first


class Model(NamedTuple):
    """What an explanation asks of a model; see :class:`~genrec_core.recommend.recommender.Recommender`."""

    scorer: CodeScorer
    trie: CodeTrie
    weights: RankingWeights
    max_history: int
    item_ids: np.ndarray
    details: ItemDetails


def explain_rows(
    model: Model,
    history: np.ndarray,
    rows: np.ndarray,
    *,
    mode: RankingMode,
    reasons: int,
    allowed: np.ndarray | None,
    exclude_seen: bool,
) -> list[Explanation]:
    """An explanation for each item.

    Args:
        model: what ranks.
        history: catalogue rows of the user's items, int64, oldest first. Each of the newest ``max_history`` is left out
            once, wherever it stands in the history.
        rows: of the items to explain, int64 [n].
        mode: the ranking that serves.
        reasons: items of the history in an explanation, at most.
        allowed, exclude_seen: what lists leave out, for the places; see ``Recommender.rank``.
    """
    ids = [item.item() for item in model.item_ids[rows]]
    if not len(history):
        return [Explanation(item, mode, nan, None, None, []) for item in ids]
    left_out = distinct(history[-model.max_history :])
    scores, effects = _scores_and_effects(model, history, left_out, rows, mode, allowed, exclude_seen)
    dense, generative = (
        _places(model, history, rows, ranking, allowed, exclude_seen) for ranking in ("dense", "generative")
    )
    explanations = []
    for column, (item, row) in enumerate(zip(ids, rows.tolist(), strict=True)):
        best = np.argsort(-effects[:, column], kind="stable")[:reasons]
        chosen = [_reason(model, row, int(left_out[place]), float(effects[place, column])) for place in best]
        places = dense[column], generative[column]
        explanations.append(Explanation(item, mode, float(scores[column]), *places, chosen))
    return explanations


def distinct(history: np.ndarray) -> np.ndarray:
    """The items of a history once each, the newest first."""
    newest_first = history[::-1]
    _, first = np.unique(newest_first, return_index=True)
    return np.asarray(newest_first[np.sort(first)])


def _scores_and_effects(
    model: Model,
    history: np.ndarray,
    left_out: np.ndarray,
    rows: np.ndarray,
    mode: RankingMode,
    allowed: np.ndarray | None,
    exclude_seen: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores with the whole history float32 [n], and effects of each item ``left_out`` [m], float32 [m, n]."""
    histories = [history, *(history[history != row] for row in left_out)]
    read = [history for history in histories if len(history)]
    longest = max(map(len, read))
    excluded = padded(read, longest).rows if exclude_seen else None
    weight = model.weights.of(mode)
    scores = scores_of_items(model.scorer, model.trie, padded(read, model.max_history), rows, weight, allowed, excluded)
    if len(read) < len(histories):  # nothing is left of a history of one item
        guess = np.full((1, len(rows)), -np.log(model.trie.n_items), dtype=np.float32)
        scores = np.concatenate([scores, guess])
    return scores[0], scores[0] - scores[1:]


def _places(
    model: Model,
    history: np.ndarray,
    rows: np.ndarray,
    mode: RankingMode,
    allowed: np.ndarray | None,
    exclude_seen: bool,
) -> list[int | None]:
    """The place of each item in one ranking of the catalogue."""
    if mode not in model.weights.modes():
        return [None] * len(rows)
    excluded = history[None] if exclude_seen else None
    batch, weight = padded([history], model.max_history), model.weights.of(mode)
    (places,) = places_of_items(model.scorer, model.trie, batch, rows, weight, allowed, excluded).tolist()
    return [place or None for place in places]


def _reason(model: Model, row: int, of_history: int, effect: float) -> Reason:
    texts, together = model.details.texts, model.details.together
    return Reason(
        model.item_ids[of_history].item(),
        effect,
        shared_levels(model.trie, row, of_history),
        None if texts is None else float(texts[row] @ texts[of_history]),
        None if together is None else together.of(row, of_history),
    )


def shared_levels(trie: CodeTrie, one: int, other: int) -> int:
    """First numbers of the semantic ID that the items at two rows share."""
    leaves = trie.row_leaf[[one, other]]
    above = [trie.leaf_node[depth].take(leaves) for depth in range(1, trie.depth + 1)]
    return int(sum(first == second for first, second in above))
