"""How near a beam comes to exact scoring of every item, on a sample of users."""

import numpy as np

from genrec_core.data.histories import padded
from genrec_core.data.split import HeldOut
from genrec_core.search.beams import CodeScorer
from genrec_core.search.generative import beam_search, exact_scores
from genrec_core.search.trie import CodeTrie

CUTOFFS = (10, 100)
_BATCH_USERS = 4


def beam_agreement(
    scorer: CodeScorer,
    trie: CodeTrie,
    held_out: HeldOut,
    *,
    users: int,
    beams: int,
    max_history: int,
    dense_weight: float,
    seed: int,
) -> dict[str, float | int]:
    """Share of the exactly best items that the beam finds, over the drawn users.

    Args:
        scorer: the model.
        trie: the catalogue.
        held_out: whom to draw from.
        users: users drawn.
        beams: width of the beam.
        max_history: newest items of a history that the model reads.
        dense_weight: as in :func:`~genrec_core.search.generative.beam_search`.
        seed: seed of the draw.

    Returns:
        ``users``, ``beams``, and ``exact@10`` and ``exact@100``: the mean overlap of the two lists.
    """
    chosen = np.random.default_rng(seed).permutation(len(held_out.targets))[:users]
    overlap: dict[int, list[float]] = {k: [] for k in CUTOFFS if k <= min(beams, trie.n_items)}
    width = min(beams, trie.n_items)
    for batch in np.array_split(chosen, max(1, len(chosen) // _BATCH_USERS)):
        histories = padded([held_out.histories.of(int(user)) for user in batch], max_history)
        ranked = beam_search(scorer, trie, histories, beams=width, top_k=width, dense_weight=dense_weight)
        exact = (1 - dense_weight) * exact_scores(scorer, trie, histories)
        if dense_weight:
            logits = scorer.start(histories).item_logits()
            exact = exact + dense_weight * (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        order = np.argsort(-exact, axis=1, kind="stable")
        for k, found in overlap.items():
            pairs = zip(ranked.items[:, :k], order[:, :k], strict=True)
            found += [len(np.intersect1d(ours, best)) / k for ours, best in pairs]
    return {
        "users": len(chosen),
        "beams": width,
        **{f"exact@{k}": float(np.mean(found)) for k, found in overlap.items()},
    }
