"""How near a beam comes to exact scoring of all items, on a sample of users."""

import numpy as np

from genrec_core.data.histories import HistoryBatch, padded
from genrec_core.data.split import HeldOut
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import beam_search, exact_scores
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import EvaluationSettings

_CUTOFFS = (10, 100)
_BATCH_USERS = 4


def beam_agreement(
    scorer: CodeScorer,
    trie: CodeTrie,
    held_out: HeldOut,
    settings: EvaluationSettings,
    max_history: int,
    dense_weight: float,
) -> dict[str, float | int]:
    """Share of the exact first K items that the beam finds too.

    Returns:
        ``users``, ``beams``, and the mean shares ``exact@10`` and ``exact@100``, where the beam is that wide.
    """
    users = np.random.default_rng(settings.seed).permutation(len(held_out.targets))[: settings.exact_users]
    width = min(settings.beams, trie.n_items)
    shares: dict[int, list[float]] = {k: [] for k in _CUTOFFS if k <= width}
    for batch in np.array_split(users, max(1, len(users) // _BATCH_USERS)):
        histories = padded([held_out.histories.of(int(user)) for user in batch], max_history)
        ranked = beam_search(scorer, trie, histories, beams=width, top_k=width, dense_weight=dense_weight)
        best = np.argsort(-_exact(scorer, trie, histories, dense_weight), axis=1, kind="stable")
        for k in shares:
            for found_items, best_items in zip(ranked.items[:, :k], best[:, :k], strict=True):
                shares[k].append(len(np.intersect1d(found_items, best_items)) / k)
    means = {f"exact@{k}": float(np.mean(values)) for k, values in shares.items()}
    return {"users": len(users), "beams": width, **means}


def _exact(scorer: CodeScorer, trie: CodeTrie, histories: HistoryBatch, dense_weight: float) -> np.ndarray:
    """The score of each item for each user, float [users, n_items]."""
    scores = (1 - dense_weight) * exact_scores(scorer, trie, histories)
    if dense_weight:
        logits = scorer.start(histories).item_logits()
        scores = scores + dense_weight * (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    return np.asarray(scores)
