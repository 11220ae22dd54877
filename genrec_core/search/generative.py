"""Batched search over the trie: all users advance together, and only valid, allowed items come out.

The generative score of an item is the sum over levels of log p(token | prefix, history), normalised over the children
that the prefix has in the catalogue. A filter never changes a score. A prefix with one item below it costs nothing.
If the history lifts items, each prefix is lifted by what its items get: see :class:`PrefixLift`.
:mod:`genrec_core.search.hybrid` searches by a mix of the decoder's score, not lifted, and the dense head's, lifted.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.search.beams import (
    CodeScorer,
    Lifted,
    Ranked,
    ScorerSession,
    by_user,
    children,
    first_log_probs,
    keep,
    require_numbers,
    widest,
)
from genrec_core.search.hybrid import search_mix
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import RankingChoice, RankingMode

_EXACT_CHUNK = 512  # items that exact_scores scores at once
_LARGEST_BONUS = 600.0  # of one item in PrefixLift: the sum of many exp(bonus) has to stay a number


@dataclass(frozen=True)
class RankingWeights:
    """How a model ranks: its modes, and whether its lists may hold what the user already has."""

    dense: bool  # whether the model has a trained dense head
    hybrid: float  # weight of the dense head in the hybrid ranking, chosen on validation
    auto: RankingMode = "hybrid"  # the mode that the training chose
    generative: bool = True  # whether the model generates codes; a baseline may not
    exclude_seen: bool = True  # whether lists leave out the items of the user's history; chosen on validation

    def modes(self) -> tuple[RankingMode, ...]:
        """The modes that give different lists."""
        if not self.generative:
            return ("dense",)
        return ("generative", "hybrid", "dense") if self.dense else ("generative",)

    def mode(self, choice: RankingChoice) -> RankingMode:
        """What a choice means for this model; without a dense head, hybrid and auto mean generative."""
        if choice == "dense" and not self.dense:
            raise GenrecError("ranking dense: this model was trained without a dense head; choose generative")
        if not self.dense:
            return "generative"
        return self.auto if choice == "auto" else choice

    def of(self, choice: RankingChoice) -> float:
        """``dense_weight`` of :func:`beam_search`."""
        return {"generative": 0.0, "hybrid": self.hybrid, "dense": 1.0}[self.mode(choice)]


def beam_search(
    scorer: CodeScorer,
    trie: CodeTrie,
    histories: HistoryBatch,
    *,
    beams: int,
    top_k: int,
    allowed: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
    dense_weight: float = 0.0,
) -> Ranked:
    """The best items of each user; exact if ``beams`` is at least the number of items.

    Args:
        scorer: the model.
        trie: the catalogue.
        histories: items that each user bought.
        beams: prefixes kept at each level.
        top_k: items of a list; a user gets fewer if the filters leave fewer.
        allowed: bool [n_items] by catalogue row, the same for all users; None allows all items.
        excluded: catalogue rows that a user must not get, int [batch, m], -1 padded.
        dense_weight: weight of the dense head in the score, from 0 to 1. 0 ranks by the decoder alone. 1 ranks by the
            dense head alone, which needs no beams and is always exact.
    """
    batch = len(histories.lengths)
    if not 1 <= top_k <= beams:
        raise GenrecError(f"top_k {top_k} is not from 1 to beams, {beams}; change one of them")
    if allowed is not None and (allowed.dtype != bool or allowed.shape != (trie.n_items,)):
        raise GenrecError(f"allowed is {allowed.dtype} {allowed.shape}; give bool ({trie.n_items},), a value an item")
    with np.errstate(invalid="ignore"):  # of logits that are not numbers; require_numbers raises for them
        if dense_weight:
            return search_mix(scorer, trie, histories, dense_weight, beams, top_k, allowed, excluded)
        return _search_prefixes(scorer.start(histories), _Filter(trie, allowed, excluded), batch, beams, top_k)


class _Beams(NamedTuple):
    """Beams of one depth, [beams] each, ordered by user and then by node, so that the lower leaf wins a tie."""

    user: np.ndarray  # int64
    node: np.ndarray  # int64
    score: np.ndarray  # float32
    slot: np.ndarray  # int64, index of the beam in the last call that scored its prefix; meaningless where no call did
    branches: np.ndarray  # bool, whether more than one leaf is below the node


class _Filter:
    """Removes the beams that lead to no item a user may get; the arguments are those of :func:`beam_search`."""

    def __init__(self, trie: CodeTrie, allowed: np.ndarray | None, excluded: np.ndarray | None) -> None:
        self.trie = trie
        self.before = None if allowed is None else np.concatenate([[0], allowed.take(trie.leaf_row).cumsum()])
        self.user = self.leaf = np.zeros(0, dtype=np.int64)  # the allowed leaves that each user excludes
        if excluded is not None:
            user, column = (excluded >= 0).nonzero()
            leaf = trie.row_leaf.take(excluded[user, column])
            kept = self._left(trie.depth, leaf) > 0
            self.user, self.leaf = np.divmod(np.unique((user * trie.n_items + leaf)[kept]), trie.n_items)

    def _left(self, depth: int, nodes: np.ndarray) -> np.ndarray:
        """Allowed leaves below each of the ``nodes`` of a depth."""
        starts = self.trie.first_leaf[depth]
        begin, end = starts.take(nodes), starts.take(nodes + 1)
        return np.asarray(end - begin if self.before is None else self.before.take(end) - self.before.take(begin))

    def apply(self, depth: int, beams: _Beams) -> _Beams:
        """The beams of ``depth`` below which an allowed item is left that the user does not exclude."""
        some = np.ones(len(beams.node), bool) if self.before is None else self._left(depth, beams.node) > 0
        if len(self.leaf) and len(some):
            nodes = self.trie.nodes(depth)
            pairs = self.user * nodes + self.trie.leaf_node[depth].take(self.leaf)
            pairs, excluded = np.unique(pairs, return_counts=True)
            closed = pairs[excluded >= self._left(depth, pairs % nodes)]
            keys = beams.user * nodes + beams.node  # ascending
            place = keys.searchsorted(closed)
            some[place[keys.take(place, mode="clip") == closed]] = False
        return keep(beams, some)


class PrefixLift:
    """Adds to the logit of a prefix the logarithm of the mean of exp(bonus) over the items below it.

    If all items below a prefix are equally likely, generation by these logits gives each item its probability times
    exp(bonus), normalised: what adding the bonus to the logit of an item gives in the dense head.
    """

    def __init__(self, trie: CodeTrie, lifted: Lifted | None) -> None:
        none = np.zeros(0, dtype=np.int64)
        user, row, bonus = lifted or Lifted(none, none, np.zeros(0, dtype=np.float32))
        leaf = trie.row_leaf.take(row)
        order = np.lexsort((leaf, user))
        self.trie, self.user, self.leaf = trie, user.take(order), leaf.take(order)
        self.gain = np.expm1(np.minimum(bonus.take(order), _LARGEST_BONUS), dtype=np.float64)

    def add(self, depth: int, logits: np.ndarray, users: np.ndarray, nodes: np.ndarray) -> None:
        """Lift the ``logits`` [n] of ``nodes`` of a depth, which are ordered by user and then by node."""
        if not len(self.leaf):
            return
        count = self.trie.nodes(depth)
        lifted = self.user * count + self.trie.leaf_node[depth].take(self.leaf)  # ascending
        (first,) = np.diff(lifted, prepend=-1).nonzero()
        lifted, gain = lifted.take(first), np.add.reduceat(self.gain, first)
        keys = users * count + nodes
        place = keys.searchsorted(lifted)
        (found,) = (keys.take(place, mode="clip") == lifted).nonzero()
        below = np.diff(self.trie.first_leaf[depth]).take(lifted.take(found) % count)
        logits[place.take(found)] += np.log1p(gain.take(found) / below)

    def table(self, depth: int, batch: int) -> np.ndarray:
        """What each node of a depth gets, float32 [batch, nodes]."""
        lifts = np.zeros((batch, self.trie.nodes(depth)), dtype=np.float32)
        self.add(depth, lifts.reshape(-1), *np.divmod(np.arange(lifts.size), lifts.shape[1]))
        return lifts


def _search_prefixes(session: ScorerSession, allowed: _Filter, batch: int, beams: int, top_k: int) -> Ranked:
    """The best items by the generative score alone."""
    trie = allowed.trie
    lift = PrefixLift(trie, session.lifted())
    scores = first_log_probs(session, trie, batch, lift.table(1, batch))
    user, node = np.divmod(np.arange(scores.size), scores.shape[1])
    state = _Beams(user, node, scores.reshape(-1), user, trie.branching[1].take(node))
    state = allowed.apply(1, state)
    for level in range(1, trie.depth):
        if top_k < beams:
            state = keep(state, _reachable(state, batch, top_k))
        state = keep(state, widest(state.score, state.user, batch, beams))
        state = allowed.apply(level + 1, _advance(session, trie, level, state, lift))
    return Ranked.of(trie, state.user, state.node, state.score, batch, top_k)


def _reachable(beams: _Beams, batch: int, top_k: int) -> np.ndarray:
    """Which beams can still give one of a user's ``top_k`` items, bool; dropping the others changes no list.

    Scores only fall from level to level, and a prefix of one item has its final score. So a prefix below ``top_k`` such
    scores cannot reach the list.
    """
    (final,) = (~beams.branches).nonzero()
    scores, _ = by_user(beams.score.take(final), beams.user.take(final), batch)
    place = scores.shape[1] - top_k
    if place < 0:
        return np.ones(len(beams.user), dtype=bool)
    return beams.score >= np.partition(scores, place, axis=1)[:, place].take(beams.user)


def _advance(session: ScorerSession, trie: CodeTrie, level: int, state: _Beams, lift: PrefixLift) -> _Beams:
    """One level down: all children of all beams. Only beams that branch are scored; the others end in one item."""
    child, begins, counts = children(trie, level, state.node)
    (open_,) = state.branches.nonzero()
    slot = np.zeros(len(state.node), dtype=np.int64)
    slot[open_] = np.arange(len(open_))
    score, user = state.score.repeat(counts), state.user.repeat(counts)
    if len(open_):
        tokens = trie.tokens[level - 1].take(state.node.take(open_)).astype(np.int64)
        logits = session.advance(tokens, state.slot.take(open_), state.user.take(open_))
        log_probs = logits.take((slot * logits.shape[1]).repeat(counts) + trie.tokens[level].take(child))
        log_probs[~state.branches.repeat(counts)] = 0  # an only child; its slot is not its own
        lift.add(level + 1, log_probs, user, child)
        log_probs -= np.maximum.reduceat(log_probs, begins).repeat(counts)
        total = np.log(np.add.reduceat(np.exp(log_probs), begins))
        require_numbers(total, level)
        log_probs -= total.repeat(counts)
        score += log_probs
    return _Beams(user, child, score, slot.repeat(counts), trie.branching[level + 1].take(child))


def unconstrained_top1(
    scorer: CodeScorer, histories: HistoryBatch, level_sizes: tuple[int, ...], beams: int = 10
) -> np.ndarray:
    """The best code of each user by a beam search without the catalogue, int32 [batch, L]."""
    session, batch = scorer.start(histories), len(histories.lengths)
    codes = np.zeros((batch, 1, 0), dtype=np.int64)
    scores = np.zeros((batch, 1), dtype=np.float32)
    parents, logits = np.zeros((batch, 1), dtype=np.int64), session.first()
    for level, size in enumerate(level_sizes):
        width = scores.shape[1]
        if level:
            users = np.arange(batch).repeat(width)
            logits = session.advance(codes[:, :, -1].reshape(-1), parents.reshape(-1), users)
        log_probs = (logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)).reshape(batch, width, size)
        total = (scores[..., None] + log_probs).reshape(batch, -1)
        best = np.argsort(-total, axis=1, kind="stable")[:, :beams]
        above, tokens = np.divmod(best, size)
        scores = np.take_along_axis(total, best, axis=1)
        codes = np.concatenate([np.take_along_axis(codes, above[..., None], axis=1), tokens[..., None]], axis=2)
        parents = above + width * np.arange(batch)[:, None]
    return codes[:, 0].astype(np.int32)


def exact_scores(scorer: CodeScorer, trie: CodeTrie, histories: HistoryBatch, dense_weight: float = 0.0) -> np.ndarray:
    """The scores by which :func:`beam_search` ranks, of all items, float32 [batch, n_items] by catalogue row.

    Each item is scored along its whole path. ``dense_weight`` is as in :func:`beam_search`.
    """
    batch = len(histories.lengths)
    scores = np.zeros((batch, trie.n_items), dtype=np.float32)
    for begin in range(0, trie.n_items if dense_weight < 1 else 0, _EXACT_CHUNK):
        leaves = np.arange(begin, min(begin + _EXACT_CHUNK, trie.n_items))
        session = scorer.start(histories)
        lift = PrefixLift(trie, None if dense_weight else session.lifted())
        lifts = [lift.table(depth + 1, batch) for depth in range(trie.depth)]
        scores[:, trie.leaf_row[leaves]] = _path_scores(session, trie, leaves, lifts)
    if dense_weight:
        logits = scorer.start(histories).item_logits()
        scores *= 1 - dense_weight
        scores += dense_weight * (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    return scores


def _path_scores(session: ScorerSession, trie: CodeTrie, leaves: np.ndarray, lifts: list[np.ndarray]) -> np.ndarray:
    """Scores of some leaves, float32 [batch, len(leaves)]; each leaf is a beam of its own from the first level on."""
    count, batch = len(leaves), len(lifts[0])
    total = np.zeros((batch, count), dtype=np.float32)
    users = np.arange(batch).repeat(count)
    node = np.zeros(count, dtype=np.int64)
    log_probs = session.first().repeat(count, axis=0)
    for level in range(trie.depth):
        if level:
            parents = np.arange(batch * count) if level > 1 else users
            log_probs = session.advance(np.tile(trie.tokens[level - 1][node].astype(np.int64), batch), parents, users)
        starts = trie.child_start[level]
        child = trie.leaf_node[level + 1][leaves]
        by_leaf = log_probs.reshape(batch, count, -1)
        for column in range(count):
            siblings = slice(starts[node[column]], starts[node[column] + 1])
            logits = by_leaf[:, column, trie.tokens[level][siblings]] + lifts[level][:, siblings]
            total[:, column] += logits[:, child[column] - siblings.start] - np.logaddexp.reduce(logits, axis=1)
        node = child
    return total
