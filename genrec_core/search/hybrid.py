"""The hybrid search: from the items that can still reach a user's list to the prefixes that the decoder must score.

An item's score is a mix of the generative one, which falls from level to level, and of the dense head's, which is known
of every item before the first. So the mix with what its prefix has so far is the most that an item can still get. Once
something is known that the list will not fall below, all others are out: some two hundred of Beauty's twelve thousand
items are left after level 0, and only their prefixes are scored.

What the list will not fall below is guessed first. Whoever's list falls below it, all the same, is searched again by
what was found, which the list certainly reaches. So no guess changes a list.

Of more than ``beams`` prefixes those are kept below which an item can still get most: the beams lead to the items that
will rank high, and a beam as wide as the catalogue is exact.
"""

from math import isfinite
from typing import NamedTuple

import numpy as np

from genrec_core.errors import GenrecError
from genrec_core.search.beams import Ranked, ScorerSession, children, first_log_probs, keep, largest, require_numbers
from genrec_core.search.trie import CodeTrie

_LEAST_ODDS = np.float32(1e-30)
_LIKELY_NATS = 1  # of the generative score, below what the list's last item is likely to have


class DenseGuide:
    """The dense head's log-probability of every leaf, minus infinity where it may not come out.

    Args:
        trie: the catalogue.
        logits: of every item, float32 [batch, n_items] by catalogue row.
        weight: share of the dense head in the mix, in 0..1.
        allowed: bool [n_items] by catalogue row; None allows all.
        excluded: rows that each user may not get, int [batch, m], -1 padded; None for none.

    Raises:
        GenrecError: a logit is not a number.
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
        live = trie.live_leaves(allowed).allowed
        if live is not None:
            self.leaves[:, ~live] = -np.inf
        if excluded is not None:
            user, column = (excluded >= 0).nonzero()
            self.leaves[user, trie.row_leaf.take(excluded[user, column])] = -np.inf

    def best(self, top_k: int) -> Ranked:
        """The best items by the dense head alone."""
        found = largest(self.leaves, min(top_k, self.trie.n_items)) & (self.leaves > -np.inf)
        user, leaf = found.nonzero()
        return Ranked.of(self.trie, user, leaf, self.leaves[user, leaf], len(self.leaves), top_k)

    def bounds(self, scores: np.ndarray) -> np.ndarray:
        """The most that each leaf's mix can become, float32 [batch, n_items]; minus infinity where it may not come out.

        Args:
            scores: generative ones of all nodes of depth 1, float32 [batch, nodes].
        """
        found = ((1 - self.weight) * scores).repeat(self.trie.branch_sizes, axis=1)
        found += self.weight * self.leaves
        return np.asarray(found)

    def likely_edge(self, scores: np.ndarray, k: int) -> np.ndarray:
        """What the ``k``-th best item of each user will hardly fall below, float32 [batch]; minus infinity below ``k``.

        The items below a prefix are taken to share its generative probability by the geometric mean of equal shares and
        of those that the dense head gives them. The score of the ``k``-th best is rarely less than that gives (Beauty:
        one user in a hundred, at one nat of the generative score below it).

        Args:
            scores: as in :meth:`bounds`.
            k: items wanted.
        """
        counts, starts = self.trie.branch_sizes, self.trie.first_leaf[1][:-1]
        odds = np.add.reduceat(self.odds, starts, axis=1)
        odds /= odds.sum(axis=1, keepdims=True)
        shares = np.log(np.maximum(odds * counts.astype(np.float32), _LEAST_ODDS))
        shares *= np.float32(-0.5)
        shares += scores - np.float32(_LIKELY_NATS)
        likely = ((1 - self.weight) * shares).repeat(counts, axis=1)
        likely += (np.float32(0.5) * (1 + self.weight)) * self.leaves
        place = likely.shape[1] - k
        if place < 0:
            return np.full(len(likely), -np.inf, dtype=np.float32)
        return np.asarray(np.partition(likely, place, axis=1)[:, place])


class _Candidates(NamedTuple):
    """Items that can still reach a list, by user and then by leaf.

    Args:
        user: int64 [candidates].
        leaf: int64, likewise.
        dense: the dense head's part of the mix, float32.
        score: the generative score of the prefix, as far as it was scored, float32.
        bound: the mix of both, float32.
        beam: which beam of the last call scored the prefix, int64; meaningless where no call was needed.
    """

    user: np.ndarray
    leaf: np.ndarray
    dense: np.ndarray
    score: np.ndarray
    bound: np.ndarray
    beam: np.ndarray


def search_items(
    session: ScorerSession, guide: DenseGuide, beams: int, top_k: int, floor: np.ndarray | None = None
) -> tuple[Ranked, np.ndarray]:
    """The best items of every user by the mix.

    Args:
        session: the model.
        guide: the dense head's opinion, and its weight in the mix, above 0.
        beams: prefixes of a user kept at each level.
        top_k: items a user.
        floor: what each user's list reaches, float32 [batch]; None to guess.

    Returns:
        The items; and the users, int64 [n], whose list does not reach what was guessed, so that it may lack items.
    """
    trie, batch = guide.trie, len(guide.leaves)
    scores = first_log_probs(session, trie, batch)
    if floor is None:
        floor = guide.likely_edge(scores, top_k)
    found = _candidates(guide, scores, floor)
    for level in range(1, trie.depth):
        if len(found.leaf) > beams < trie.nodes(level):
            found = _widest(found, trie, level, batch, beams)
        (open_,) = trie.branching[level].take(trie.leaf_node[level].take(found.leaf)).nonzero()
        if not len(open_):
            break
        found = _scored(found, open_, session, trie, level, guide.weight)
        if level + 1 < trie.depth:
            found = keep(found, found.bound >= (floor if batch == 1 else floor.take(found.user)))
    ranked = Ranked.of(trie, found.user, found.leaf, found.bound, batch, top_k)
    return ranked, (ranked.scores[:, -1] < floor).nonzero()[0]


def _candidates(guide: DenseGuide, scores: np.ndarray, floor: np.ndarray) -> _Candidates:
    """The items that may come out and whose bound after level 0 is ``floor``, float32 [batch], or more."""
    trie = guide.trie
    bounds = guide.bounds(scores)
    reached = bounds >= floor[:, None]
    if floor.min() == -np.inf:
        reached &= guide.leaves > -np.inf
    (place,) = reached.reshape(-1).nonzero()
    if len(floor) == 1:
        user, leaf = np.zeros(len(place), dtype=np.int64), place
    else:
        user, leaf = np.divmod(place, trie.n_items)
    node = user * scores.shape[1] + trie.leaf_node[1].take(leaf)
    dense = guide.weight * guide.leaves.reshape(-1).take(place)
    return _Candidates(user, leaf, dense, scores.reshape(-1).take(node), bounds.reshape(-1).take(place), user)


def _widest(found: _Candidates, trie: CodeTrie, level: int, batch: int, beams: int) -> _Candidates:
    """The candidates below the best ``beams`` prefixes of each user, by the largest bound below them."""
    new = _begins(trie.leaf_node[level].take(found.leaf), found.user)
    (first,) = new.nonzero()
    counts = np.bincount(found.user.take(first), minlength=batch)
    (over,) = (counts > beams).nonzero()
    if not len(over):
        return found
    best, ends, kept = np.maximum.reduceat(found.bound, first), counts.cumsum(), np.ones(len(first), dtype=bool)
    for end, count in zip(ends.take(over).tolist(), counts.take(over).tolist(), strict=True):
        kept[end - count : end] = largest(best[None, end - count : end], beams)[0]
    return keep(found, kept.take(new.cumsum() - 1))


def _scored(
    found: _Candidates, open_: np.ndarray, session: ScorerSession, trie: CodeTrie, level: int, weight: np.float32
) -> _Candidates:
    """The candidates ``open_``, int64 [n], whose prefix of ``level`` has several items, with another level scored."""
    leaf = found.leaf.take(open_)
    node = trie.leaf_node[level].take(leaf)
    new = _begins(node, found.user.take(open_))
    (first,) = new.nonzero()
    beam = new.cumsum() - 1
    prefix, parent = node.take(first), open_.take(first)
    tokens = trie.tokens[level - 1].take(prefix).astype(np.int64)
    logits = session.advance(tokens, found.beam.take(parent), found.user.take(parent))
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
    score, beams = found.score.copy(), found.beam.copy()
    score[open_] += log_probs
    beams[open_] = beam
    bound = (1 - weight) * score
    bound += found.dense
    return _Candidates(found.user, found.leaf, found.dense, score, bound, beams)


def _begins(node: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Where another prefix begins, or another user, bool [n]."""
    new = np.empty(len(node), dtype=bool)
    new[:1] = True
    np.not_equal(node[1:], node[:-1], out=new[1:])
    if len(user) and user[-1]:
        new[1:] |= user[1:] != user[:-1]
    return new
