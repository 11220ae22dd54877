"""Scores and places of given items, where a search would say them only of the items that it finds."""

import numpy as np

from genrec_core.data.histories import HistoryBatch
from genrec_core.search.beams import CodeScorer, Lifted, ScorerSession, children, first_log_probs, require_numbers
from genrec_core.search.generative import PrefixLift, beam_search
from genrec_core.search.key_index import Matches
from genrec_core.search.trie import CodeTrie

MOST_PLACES = 1000  # items of a list in which an item's place is looked up
_PATHS = 1 << 12  # histories x items scored at once


def scores_of_items(
    scorer: CodeScorer,
    trie: CodeTrie,
    histories: HistoryBatch,
    rows: np.ndarray,
    dense_weight: float = 0.0,
    allowed: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
) -> np.ndarray:
    """The scores by which :func:`~genrec_core.search.generative.beam_search` ranks, of given items, for each history.

    The decoder follows only the codes of these items. Up to ``exact_items`` items of a catalogue, ``allowed`` and
    ``excluded`` change no score. In a larger catalogue the dense head's probabilities are those among the items that
    match the history best, as in a list of up to 256 items with these filters.

    Args:
        rows: of the catalogue, int [n].
        dense_weight, allowed, excluded: as in ``beam_search``.

    Returns:
        Log-probabilities, float32 [batch, n].
    """
    step = max(1, _PATHS // len(histories.lengths))
    parts = [
        _scores(
            scorer.start(histories), trie, len(histories.lengths), rows[at : at + step], dense_weight, allowed, excluded
        )
        for at in range(0, len(rows), step)
    ]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(histories.lengths), 0), np.float32)


def places_of_items(
    scorer: CodeScorer,
    trie: CodeTrie,
    histories: HistoryBatch,
    rows: np.ndarray,
    dense_weight: float,
    allowed: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
) -> np.ndarray:
    """The place of given items in each user's list of 1,000 items, from 1, int64 [batch, n]; 0 for one not in it.

    The arguments are those of :func:`scores_of_items`.
    """
    most = min(MOST_PLACES, trie.n_items)
    ranked = beam_search(
        scorer, trie, histories, beams=most, top_k=most, allowed=allowed, excluded=excluded, dense_weight=dense_weight
    )
    listed = ranked.items[:, None] == rows[:, None]  # [batch, n, most]
    return np.where(listed.any(axis=2), listed.argmax(axis=2) + 1, 0)


def _scores(
    session: ScorerSession,
    trie: CodeTrie,
    batch: int,
    rows: np.ndarray,
    weight: float,
    allowed: np.ndarray | None,
    excluded: np.ndarray | None,
) -> np.ndarray:
    """See :func:`scores_of_items`."""
    lift = PrefixLift(trie, None if weight else session.lifted())
    if weight == 1:
        first = np.zeros((batch, trie.nodes(1)), dtype=np.float32)
    else:
        first = first_log_probs(session, trie, batch, None if weight else lift.table(1, batch))
    if not weight:
        return _code_scores(session, trie, first, rows, lift)
    matches = session.matches(trie)
    if matches is None:
        dense = _among_all(session.item_logits(), rows)
    else:
        dense = _among_best(matches, first * np.float32((1 - weight) / weight), rows, allowed, excluded)
    require_numbers(dense.reshape(-1), 0)
    if weight == 1:
        return dense
    return np.float32(1 - weight) * _code_scores(session, trie, first, rows, lift) + np.float32(weight) * dense


def _among_all(logits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Log-probabilities of the items among all, float32 [batch, n], from logits float32 [batch, n_items]."""
    highest = logits.max(axis=1, keepdims=True)
    total = highest + np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))
    return np.asarray(logits[:, rows] - total)


def _among_best(
    matches: Matches, prefixes: np.ndarray, rows: np.ndarray, allowed: np.ndarray | None, excluded: np.ndarray | None
) -> np.ndarray:
    """The same among the items that the search of a large catalogue scores."""
    batch = len(matches.queries)
    best = matches.shortlist(1, prefixes, allowed, excluded)
    highest = np.full(batch, -np.inf, dtype=np.float32)
    np.maximum.at(highest, best.user, best.logit)
    odds = np.bincount(best.user, np.exp(best.logit - highest.take(best.user)), batch)
    logits = matches.key_index.keys.logits(matches.queries, rows)
    _lift(logits, matches.lifted, rows)
    return np.asarray(logits - (highest + np.log(odds).astype(np.float32))[:, None])


def _lift(logits: np.ndarray, lifted: Lifted | None, rows: np.ndarray) -> None:
    """Add to the logits [batch, n] of the items at ``rows`` [n] what the histories lift them."""
    if lifted is not None:
        for column, row in enumerate(rows.tolist()):
            (own,) = (lifted.row == row).nonzero()
            logits[lifted.user[own], column] += lifted.bonus[own]


def _code_scores(
    session: ScorerSession, trie: CodeTrie, first: np.ndarray, rows: np.ndarray, lift: PrefixLift
) -> np.ndarray:
    """Generative scores of the items at ``rows`` [n], float32 [batch, n]; ``first`` are those of the nodes of depth 1.

    Each prefix of these items is one beam of each user. A prefix with one item below costs nothing, as in the search.
    """
    batch, leaves = len(first), trie.row_leaf.take(rows)
    scores, above = first.take(trie.leaf_node[1].take(leaves), axis=1), np.zeros(1, dtype=np.int64)
    for level in range(1, trie.depth):
        nodes = np.unique(trie.leaf_node[level].take(leaves))
        nodes = nodes[trie.branching[level].take(nodes)]
        if not len(nodes):
            break
        tokens = np.tile(trie.tokens[level - 1].take(nodes).astype(np.int64), batch)
        # All of the prefixes above branch too, so that each was a beam of the call before.
        parents = above.searchsorted(_parents(trie, level, nodes)) if level > 1 else np.zeros(len(nodes), np.int64)
        parents = (parents + np.arange(batch)[:, None] * len(above)).reshape(-1)
        logits = session.advance(tokens, parents, np.arange(batch).repeat(len(nodes)))
        child, log_probs = _children_log_probs(logits, trie, level, nodes, batch, lift)
        (open_,) = np.isin(trie.leaf_node[level].take(leaves), nodes).nonzero()
        scores[:, open_] += log_probs[:, child.searchsorted(trie.leaf_node[level + 1].take(leaves[open_]))]
        above = nodes
    return scores


def _parents(trie: CodeTrie, level: int, nodes: np.ndarray) -> np.ndarray:
    """The node of depth ``level - 1`` above each of the ``nodes`` of depth ``level``."""
    return np.asarray(trie.leaf_node[level - 1].take(trie.first_leaf[level].take(nodes)))


def _children_log_probs(
    logits: np.ndarray, trie: CodeTrie, level: int, nodes: np.ndarray, batch: int, lift: PrefixLift
) -> tuple[np.ndarray, np.ndarray]:
    """All children of the ``nodes`` [beams of a user], and their log-probabilities float32 [batch, children]."""
    child, begins, counts = children(trie, level, nodes)
    by_user = logits.reshape(batch, len(nodes), -1)
    columns = np.arange(len(nodes)).repeat(counts), trie.tokens[level].take(child)
    log_probs = np.ascontiguousarray(by_user[:, *columns])
    lift.add(level + 1, log_probs.reshape(-1), np.arange(batch).repeat(len(child)), np.tile(child, batch))
    log_probs -= np.maximum.reduceat(log_probs, begins, axis=1).repeat(counts, axis=1)
    total = np.log(np.add.reduceat(np.exp(log_probs), begins, axis=1))
    require_numbers(total.reshape(-1), level)
    log_probs -= total.repeat(counts, axis=1)
    return child, log_probs
