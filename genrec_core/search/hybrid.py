"""The hybrid search: it finds the items that can still reach a user's list, and scores only their prefixes.

The score of an item is a mix of the generative score and the dense head's log-probability. The generative score only
falls from level to level, and the dense part is known from the start. So the mix with the score of an item's prefix is
an upper bound of the item's score. Items whose bound is below the end of the list are dropped: after level 0, about 200
of Beauty's 12,000 items are left.

The end of the list is guessed first. If a user's list ends below the guess, the search runs again with that lower end,
so the result is exact.

If there are more than ``beams`` prefixes, those with the highest bound are kept. With as many beams as items, the
search is exact. In a catalogue too large to score every item, the dense head scores those that seem to match best: see
:mod:`genrec_core.search.key_index`. Then the search is exact among these.
"""

from math import isfinite
from typing import NamedTuple, Protocol

import numpy as np

from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.search.beams import (
    CodeScorer,
    Ranked,
    ScorerSession,
    by_user,
    children,
    first_log_probs,
    keep,
    largest,
    require_numbers,
    widest,
)
from genrec_core.search.key_index import Matches
from genrec_core.search.trie import CodeTrie

_LEAST_ODDS = np.float32(1e-30)
_LIKELY_NATS = 1  # the guess is as many nats of the generative score below the likely score of the list's last item
_LARGE_BEAMS = 2  # times as many beams in a large catalogue, whose prefixes hold fewer of a list's items each
_ROUNDING = np.float32(1e-3)  # more than a score can differ when the user is searched again in another batch


def search_mix(
    scorer: CodeScorer,
    trie: CodeTrie,
    histories: HistoryBatch,
    weight: float,
    beams: int,
    top_k: int,
    allowed: np.ndarray | None,
    excluded: np.ndarray | None,
    list_end: np.ndarray | None = None,
) -> Ranked:
    """The best items of each user by the mix; ``weight`` is above 0, and the rest as in ``beam_search``.

    ``list_end`` is a score float32 [batch] that the last item of each list does not fall below; None to guess it.
    """
    session, batch = scorer.start(histories), len(histories.lengths)
    scores = first_log_probs(session, trie, batch) if weight < 1 else np.zeros((batch, trie.nodes(1)), np.float32)
    matches = session.matches(trie)
    guide: Guide
    if matches is None:
        guide = DenseGuide(trie, session.item_logits(), weight, allowed, excluded)
    else:
        guide = ShortGuide(matches, scores, top_k, weight, allowed, excluded)
    if weight == 1:
        return guide.best(top_k)
    kept = beams if matches is None else _LARGE_BEAMS * beams
    ranked, unproven = search_items(session, guide, scores, kept, top_k, list_end)
    if list_end is None and len(unproven):
        part = HistoryBatch(histories.rows[unproven], histories.lengths[unproven])
        list_end = ranked.scores[unproven, -1] - _ROUNDING
        excluded = None if excluded is None else excluded[unproven]
        again = search_mix(scorer, trie, part, weight, beams, top_k, allowed, excluded, list_end)
        ranked.items[unproven], ranked.scores[unproven] = again.items, again.scores
    return ranked


class _Candidates(NamedTuple):
    """Items that can still reach a list, [candidates] each, ordered by user and then by leaf."""

    user: np.ndarray  # int64
    leaf: np.ndarray  # int64
    dense: np.ndarray  # float32, the dense head's part of the mix
    score: np.ndarray  # float32, generative score of the prefix at the last level that was scored
    bound: np.ndarray  # float32, upper bound of the mix
    beam: np.ndarray  # int64, index of the prefix in the last call that scored it; meaningless where no call did


class Guide(Protocol):
    """What the dense head says of the items. The ``scores`` are of the nodes of depth 1, float32 [batch, nodes]."""

    trie: CodeTrie
    weight: np.float32

    def best(self, top_k: int) -> Ranked:
        """The best items by the dense head alone."""
        ...

    def likely_list_end(self, scores: np.ndarray, top_k: int) -> np.ndarray:
        """A score that the last item of a list rarely falls below, float32 [batch]; minus infinity for short lists.

        The probability of a prefix is shared among its items: by the geometric mean of equal and of the dense head's
        shares. On Beauty one user in a hundred falls below.
        """
        ...

    def candidates(self, scores: np.ndarray, list_end: np.ndarray) -> _Candidates:
        """The items whose bound after level 0 is at least ``list_end``."""
        ...


class DenseGuide:
    """A :class:`Guide` by all items: the log-probability of each leaf, float32 [batch, n_items]; -inf if left out.

    ``logits`` are float32 [batch, n_items] by catalogue row; ``allowed`` and ``excluded`` as in ``beam_search``.
    """

    def __init__(
        self,
        trie: CodeTrie,
        logits: np.ndarray,
        weight: float,
        allowed: np.ndarray | None = None,
        excluded: np.ndarray | None = None,
    ) -> None:
        self.trie, self.weight = trie, np.float32(weight)
        highest = logits.max(axis=1, keepdims=True)
        if not (isfinite(highest.sum()) and isfinite(logits.min())):
            raise GenrecError("the dense head's log-probabilities are not numbers; train or export the model again")
        self.leaves = np.asarray(logits.take(trie.leaf_row, axis=1))
        self.leaves -= highest
        self.odds = np.exp(self.leaves)
        self.leaves -= np.log(self.odds.sum(axis=1, keepdims=True))
        if allowed is not None:
            self.leaves[:, ~allowed.take(trie.leaf_row)] = -np.inf
        if excluded is not None:
            user, column = (excluded >= 0).nonzero()
            self.leaves[user, trie.row_leaf.take(excluded[user, column])] = -np.inf

    def best(self, top_k: int) -> Ranked:
        """The best items by the dense head alone."""
        mask = largest(self.leaves, min(top_k, self.trie.n_items)) & (self.leaves > -np.inf)
        user, leaf = mask.nonzero()
        return Ranked.of(self.trie, user, leaf, self.leaves[user, leaf], len(self.leaves), top_k)

    def likely_list_end(self, scores: np.ndarray, top_k: int) -> np.ndarray:
        if top_k > self.trie.n_items:
            return np.full(len(scores), -np.inf, dtype=np.float32)
        starts = self.trie.first_leaf[1]
        shares = _shares(self.trie, np.add.reduceat(self.odds, starts[:-1], axis=1), scores)
        likely = ((1 - self.weight) * shares).repeat(np.diff(starts), axis=1)
        likely += (np.float32(0.5) * (1 + self.weight)) * self.leaves
        place = self.trie.n_items - top_k
        return np.asarray(np.partition(likely, place, axis=1)[:, place])

    def candidates(self, scores: np.ndarray, list_end: np.ndarray) -> _Candidates:
        bounds = ((1 - self.weight) * scores).repeat(np.diff(self.trie.first_leaf[1]), axis=1)
        bounds += self.weight * self.leaves
        (place,) = ((bounds >= list_end[:, None]) & (self.leaves > -np.inf)).reshape(-1).nonzero()
        user, leaf = np.divmod(place, self.trie.n_items)
        node = user * scores.shape[1] + self.trie.leaf_node[1].take(leaf)
        dense = self.weight * self.leaves.reshape(-1).take(place)
        return _Candidates(user, leaf, dense, scores.reshape(-1).take(node), bounds.reshape(-1).take(place), user)


class ShortGuide:
    """A :class:`Guide` by the items that :meth:`Matches.shortlist` scores; their log-probabilities are among these."""

    def __init__(
        self,
        matches: Matches,
        scores: np.ndarray,
        top_k: int,
        weight: float,
        allowed: np.ndarray | None = None,
        excluded: np.ndarray | None = None,
    ) -> None:
        self.trie, self.weight, self.batch = matches.key_index.trie, np.float32(weight), len(scores)
        prefixes = scores * np.float32((1 - weight) / weight)
        self.user, self.leaf, self.logit = matches.shortlist(top_k, prefixes, allowed, excluded)
        require_numbers(self.logit, 0)
        self.node = self.user * scores.shape[1] + self.trie.leaf_node[1].take(self.leaf)
        highest = np.full(self.batch, -np.inf, dtype=np.float32)
        np.maximum.at(highest, self.user, self.logit)
        self.logit = self.logit - highest.take(self.user)
        self.odds = np.exp(self.logit)
        self.logit -= np.log(np.bincount(self.user, self.odds, self.batch).astype(np.float32).take(self.user))

    def best(self, top_k: int) -> Ranked:
        mask = widest(self.logit, self.user, self.batch, top_k)
        return Ranked.of(self.trie, self.user[mask], self.leaf[mask], self.logit[mask], self.batch, top_k)

    def likely_list_end(self, scores: np.ndarray, top_k: int) -> np.ndarray:
        odds = np.bincount(self.node, self.odds, scores.size).astype(np.float32).reshape(scores.shape)
        likely = (1 - self.weight) * _shares(self.trie, odds, scores).reshape(-1).take(self.node)
        likely += (np.float32(0.5) * (1 + self.weight)) * self.logit
        padded, _ = by_user(likely, self.user, self.batch)
        place = padded.shape[1] - top_k
        return np.partition(padded, max(place, 0), axis=1)[:, place] if place >= 0 else np.full(self.batch, -np.inf)

    def candidates(self, scores: np.ndarray, list_end: np.ndarray) -> _Candidates:
        score, dense = scores.reshape(-1).take(self.node), self.weight * self.logit
        bound = (1 - self.weight) * score + dense
        (place,) = (bound >= list_end.take(self.user)).nonzero()
        user, leaf = self.user.take(place), self.leaf.take(place)
        return _Candidates(user, leaf, dense.take(place), score.take(place), bound.take(place), user)


def _shares(trie: CodeTrie, odds: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The likely score of an item below each node of depth 1 beside the dense head's part, float32 [batch, nodes].

    ``odds`` are the dense head's of the nodes, and become shares.
    """
    odds /= odds.sum(axis=1, keepdims=True)
    counts = np.diff(trie.first_leaf[1]).astype(np.float32)
    shares = np.log(np.maximum(odds * counts, _LEAST_ODDS))
    shares *= np.float32(-0.5)
    shares += scores - np.float32(_LIKELY_NATS)
    return shares


def search_items(
    session: ScorerSession,
    guide: Guide,
    scores: np.ndarray,
    beams: int,
    top_k: int,
    list_end: np.ndarray | None = None,
) -> tuple[Ranked, np.ndarray]:
    """The best items of each user by the mix, and the users whose list falls below its end: it may lack items.

    Args:
        scores: of the nodes of depth 1, as :func:`first_log_probs` gives them.
        list_end: a score that the user's list does not fall below, float32 [batch]; None to guess it.
    """
    trie, batch = guide.trie, len(scores)
    if list_end is None:
        list_end = guide.likely_list_end(scores, top_k)
    candidates = guide.candidates(scores, list_end)
    for level in range(1, trie.depth):
        if len(candidates.leaf) > beams < trie.nodes(level):
            candidates = _below_widest(candidates, trie, level, batch, beams)
        (open_,) = trie.branching[level].take(trie.leaf_node[level].take(candidates.leaf)).nonzero()
        if not len(open_):
            break
        candidates = _scored(candidates, open_, session, trie, level, guide.weight)
        if level + 1 < trie.depth:
            candidates = keep(candidates, candidates.bound >= list_end.take(candidates.user))
    ranked = Ranked.of(trie, candidates.user, candidates.leaf, candidates.bound, batch, top_k)
    return ranked, (ranked.scores[:, -1] < list_end).nonzero()[0]


def _below_widest(candidates: _Candidates, trie: CodeTrie, level: int, batch: int, beams: int) -> _Candidates:
    """The candidates below the best ``beams`` prefixes of each user; a prefix counts as much as its best candidate."""
    new = _begins(trie.leaf_node[level].take(candidates.leaf), candidates.user)
    (first,) = new.nonzero()
    best = np.maximum.reduceat(candidates.bound, first)
    kept = widest(best, candidates.user.take(first), batch, beams)
    return keep(candidates, kept.take(new.cumsum() - 1))


def _scored(
    candidates: _Candidates, open_: np.ndarray, session: ScorerSession, trie: CodeTrie, level: int, weight: np.float32
) -> _Candidates:
    """Score the next token of the candidates ``open_``, int64 [n], whose prefix of ``level`` has several items."""
    leaf = candidates.leaf.take(open_)
    node = trie.leaf_node[level].take(leaf)
    new = _begins(node, candidates.user.take(open_))
    (first,) = new.nonzero()
    beam = new.cumsum() - 1
    prefix, parent = node.take(first), open_.take(first)
    tokens = trie.tokens[level - 1].take(prefix).astype(np.int64)
    logits = session.advance(tokens, candidates.beam.take(parent), candidates.user.take(parent))
    row = np.arange(0, logits.size, logits.shape[1])
    child, begins, counts = children(trie, level, prefix)
    siblings = logits.take(row.repeat(counts) + trie.tokens[level].take(child))
    highest = np.maximum.reduceat(siblings, begins)
    siblings -= highest.repeat(counts)
    total = np.log(np.add.reduceat(np.exp(siblings, out=siblings), begins))
    require_numbers(total, level)
    log_probs = logits.take(row.take(beam) + trie.tokens[level].take(trie.leaf_node[level + 1].take(leaf)))
    log_probs -= highest.take(beam)
    log_probs -= total.take(beam)
    score, beams = candidates.score.copy(), candidates.beam.copy()
    score[open_] += log_probs
    beams[open_] = beam
    bound = (1 - weight) * score
    bound += candidates.dense
    return _Candidates(candidates.user, candidates.leaf, candidates.dense, score, bound, beams)


def _begins(node: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Where another prefix or another user begins, bool [n]."""
    new = np.ones(len(node), dtype=bool)
    new[1:] = (node[1:] != node[:-1]) | (user[1:] != user[:-1])
    return new
