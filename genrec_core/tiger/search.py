"""Batched beam search over the trie: all users and beams advance together, and only valid, allowed items come out.

The generative score of an item is the sum over levels of log p(token | prefix, history), renormalised over the children
that the prefix has in the catalogue. A filter never changes a score, and a prefix with one child costs nothing.

The hybrid ranking mixes it with the log-probability that the dense head gives the item. A prefix is kept by the same
mix, with the probabilities of all items below it summed: the dense head guides the beams to the items that it will rank
high, and a beam as wide as the catalogue is still exact.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.settings import RankingMode
from genrec_core.tiger.trie import CodeTrie

_EXACT_CHUNK = 512  # items scored at once by exact_scores


class ScorerSession(Protocol):
    """The decoding of one batch, level by level."""

    def advance(self, tokens: np.ndarray | None, parents: np.ndarray | None) -> np.ndarray:
        """Score the next level.

        Args:
            tokens: tokens chosen at the level before, int64 [batch, width]; None on the first call.
            parents: index of each beam's parent in the width of the previous call, int64 [batch, width]; None likewise.

        Returns:
            Log-probabilities over the level's vocabulary, float32 [batch, width, level size].
        """
        ...

    def item_log_probs(self) -> np.ndarray:
        """Log-probabilities of all items by the dense head, float32 [batch, n_items] by catalogue row."""
        ...


class CodeScorer(Protocol):
    """A model that scores codes."""

    def start(self, histories: HistoryBatch) -> ScorerSession:
        """Read the histories of a batch, each of one item at least."""
        ...


@dataclass(frozen=True)
class RankingWeights:
    """What a model's ranking modes mean.

    Args:
        dense: whether the model has a trained dense head.
        hybrid: share of the dense head in the hybrid ranking, chosen on validation.
        generative: whether the model generates codes; a baseline may not.
    """

    dense: bool
    hybrid: float
    generative: bool = True

    def modes(self) -> tuple[RankingMode, ...]:
        """The modes that differ."""
        if not self.generative:
            return ("dense",)
        return ("generative", "hybrid", "dense") if self.dense else ("generative",)

    def of(self, mode: RankingMode) -> float:
        """``dense_weight`` of :func:`beam_search`; the hybrid of a model without a dense head is generating alone.

        Raises:
            GenrecError: ``dense`` is asked of such a model.
        """
        if mode == "dense" and not self.dense:
            raise GenrecError("ranking dense: this model was trained without a dense head; choose generative")
        return {"generative": 0.0, "hybrid": self.hybrid if self.dense else 0.0, "dense": 1.0}[mode]


@dataclass(frozen=True)
class Ranked:
    """Items by score.

    Args:
        items: catalogue rows int32 [batch, k], best first, -1 where a user has fewer.
        scores: float32 [batch, k], minus infinity there.
    """

    items: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class _Beams:
    """Beams of one depth, in node order, so that ties go to the lower leaf.

    Args:
        node: int64 [batch, width], -1 where there is none.
        score: generative score, float32 [batch, width].
        order: what beams are kept by, float32 [batch, width]: the generative score, or its mix with the dense one.
        slot: index in the width of the last call, int64 [batch, width]; meaningless for a beam that needed no call.
    """

    node: np.ndarray
    score: np.ndarray
    order: np.ndarray
    slot: np.ndarray


class DenseGuide:
    """The dense head's opinion of every node of the trie: log of the probability of the items below it.

    Args:
        trie: the catalogue.
        log_probs: of every item, float32 [batch, n_items] by catalogue row.
        weight: share of the dense head in the mix, in 0..1.
    """

    def __init__(self, trie: CodeTrie, log_probs: np.ndarray, weight: float) -> None:
        leaves = log_probs[:, trie.leaf_row]
        if np.isnan(leaves).any():
            raise GenrecError("the dense head's log-probabilities are not numbers; train or export the model again")
        shares = np.exp(leaves)
        tiny = np.finfo(np.float32).tiny
        inner = [np.log(np.add.reduceat(shares, starts[:-1], axis=1).clip(min=tiny)) for starts in trie.first_leaf[:-1]]
        self.below, self.weight = [*inner, leaves], np.float32(weight)

    def mix(self, depth: int, user: np.ndarray, node: np.ndarray, score: np.ndarray) -> np.ndarray:
        """The mix of generative scores and the dense head's for nodes of ``depth``, float32 [n]."""
        return np.asarray((1 - self.weight) * score + self.weight * self.below[depth][user, node])


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
    """The best items of every user; exact where ``beams`` reaches the catalogue's size.

    Args:
        scorer: the model.
        trie: the catalogue.
        histories: what each user bought.
        beams: prefixes kept at each level; never more than there are.
        top_k: items returned a user.
        allowed: bool [n_items] by catalogue row, the same for all users; None allows all.
        excluded: rows that each user may not get, int [batch, m], -1 padded.
        dense_weight: share of the dense head in the mix that items are ranked by: 0 asks the decoder alone, 1 the dense
            head alone, which needs no beams and is always exact.

    Returns:
        ``top_k`` items a user, or all that the filters leave where they are fewer.

    Raises:
        GenrecError: ``top_k`` is below 1 or larger than ``beams``, ``dense_weight`` is outside 0..1, a filter does not
            fit the catalogue or the batch, or the model's scores are not numbers.
    """
    batch = len(histories.lengths)
    _check_arguments(trie, batch, beams, top_k, allowed, excluded)
    live = trie.live_leaves(allowed)
    dead = None if excluded is None else trie.dead_nodes(excluded, live)
    if not 0 <= dense_weight <= 1:
        raise GenrecError(f"dense_weight {dense_weight} is no share; give a number from 0 to 1")
    session = scorer.start(histories)
    guide = DenseGuide(trie, session.item_log_probs(), dense_weight) if dense_weight else None
    if guide is not None and dense_weight == 1:
        return _ranked(trie, _all_leaves(trie, guide, live[-1], dead, top_k), top_k)
    zeros = np.zeros((batch, 1), dtype=np.int64)
    state = _Beams(zeros, zeros.astype(np.float32), zeros.astype(np.float32), zeros)
    for level in range(trie.depth):
        state = _advance(session, trie, level, state, beams, live, dead, guide)
    return _ranked(trie, state, top_k)


def _all_leaves(
    trie: CodeTrie, guide: DenseGuide, live: np.ndarray, dead: list[np.ndarray] | None, top_k: int
) -> _Beams:
    """The best ``top_k`` live leaves of each user by the dense head alone."""
    batch = len(guide.below[-1])
    user, leaf = np.divmod(np.arange(batch * trie.n_items), trie.n_items)
    keep = np.tile(live > 0, batch)
    if dead is not None:
        keep[dead[-1]] = False
    user, leaf = user[keep], leaf[keep]
    order = guide.below[-1][user, leaf]
    return _select(batch, user, leaf, order, order, np.zeros_like(leaf), top_k)


def _check_arguments(
    trie: CodeTrie, batch: int, beams: int, top_k: int, allowed: np.ndarray | None, excluded: np.ndarray | None
) -> None:
    if top_k < 1:
        raise GenrecError(f"top_k {top_k} asks for no item; set it to 1 or more")
    if top_k > beams:
        raise GenrecError(f"top_k {top_k} is larger than beams {beams}; raise beams to {top_k} or more")
    if allowed is not None and (allowed.shape != (trie.n_items,) or allowed.dtype != np.bool_):
        raise GenrecError(
            f"allowed is {allowed.dtype} of shape {allowed.shape}; give one bool for each of {trie.n_items} items"
        )
    if excluded is None:
        return
    if excluded.ndim != 2 or len(excluded) != batch:
        raise GenrecError(f"excluded has shape {excluded.shape}; give one line of rows for each of {batch} users")
    if excluded.max(initial=-1) >= trie.n_items:
        raise GenrecError(f"excluded row {excluded.max()} is outside the catalogue's rows 0..{trie.n_items - 1}")


def _advance(
    session: ScorerSession,
    trie: CodeTrie,
    level: int,
    state: _Beams,
    beams: int,
    live: list[np.ndarray],
    dead: list[np.ndarray] | None,
    guide: DenseGuide | None,
) -> _Beams:
    """One level down: the best ``beams`` live children of all beams of each user."""
    slot, log_probs = _score_branching(session, trie, level, state)
    user, beam = np.nonzero(state.node >= 0)
    parent = state.node[user, beam]
    starts = trie.child_start[level]
    counts = (starts[parent + 1] - starts[parent]).astype(np.int64)
    first = np.cumsum(counts) - counts
    child = np.arange(counts.sum()) + np.repeat(starts[parent] - first, counts)
    score = np.repeat(state.score[user, beam], counts)
    if log_probs is not None:
        score = score + _child_log_probs(log_probs, trie.tokens[level][child], user, slot[user, beam], counts, first)
        if np.isnan(score).any():  # a NaN compares with nothing, so the user would silently lose every beam
            raise GenrecError(f"level {level}: the model's log-probabilities are not numbers; train or export it again")
    keep = live[level + 1][child] > 0
    of_user = np.repeat(user, counts)
    order = score if guide is None else guide.mix(level + 1, of_user, child, score)
    if dead is not None:
        keep &= ~_is_key(dead[level + 1], of_user * trie.nodes(level + 1) + child)
    of_slot = np.repeat(slot[user, beam], counts)
    return _select(len(state.node), of_user[keep], child[keep], score[keep], order[keep], of_slot[keep], beams)


def _score_branching(
    session: ScorerSession, trie: CodeTrie, level: int, state: _Beams
) -> tuple[np.ndarray, np.ndarray | None]:
    """Score the beams that have more than one leaf below them; the others end in one item whatever the model says.

    Returns:
        Index of every beam in the width of this call (-1 where it is left out), and the log-probabilities, None where
        no beam needed them.
    """
    branching = (state.node >= 0) & (trie.leaves(level, state.node.clip(min=0)) > 1)
    width = int(branching.sum(axis=1).max(initial=0))
    slot = np.where(branching, np.cumsum(branching, axis=1) - 1, -1)
    if width == 0:
        return slot, None
    if level == 0:
        return slot, session.advance(None, None)
    user, beam = np.nonzero(branching)
    tokens = np.zeros((len(state.node), width), dtype=np.int64)
    parents = np.zeros_like(tokens)
    tokens[user, slot[user, beam]] = trie.tokens[level - 1][state.node[user, beam]]
    parents[user, slot[user, beam]] = state.slot[user, beam]
    return slot, session.advance(tokens, parents)


def _child_log_probs(
    log_probs: np.ndarray, token: np.ndarray, user: np.ndarray, slot: np.ndarray, counts: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """Log-probability of every child among its siblings, float32 [n_children]; 0 for children of beams not scored.

    Args:
        log_probs: float32 [batch, width, level size].
        token: token of each child.
        user, slot: user and index in the width of each parent; a negative slot was not scored.
        counts, first: children of each parent and where they begin.
    """
    width, size = log_probs.shape[1:]
    base = (user * width + slot.clip(min=0)) * size
    raw = log_probs.reshape(-1)[np.repeat(base, counts) + token]
    peak = np.maximum.reduceat(raw, first)
    with np.errstate(
        invalid="ignore"
    ):  # inf - inf: masked here for a beam not scored, an error of the caller otherwise
        total = peak + np.log(np.add.reduceat(np.exp(raw - np.repeat(peak, counts)), first))
        return np.where(np.repeat(slot >= 0, counts), raw - np.repeat(total, counts), np.float32(0))


def _is_key(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Whether each ``wanted`` is among the sorted ``keys``."""
    if len(keys) == 0:
        return np.zeros(len(wanted), dtype=bool)
    return np.asarray(keys[np.searchsorted(keys, wanted).clip(max=len(keys) - 1)] == wanted)


def _select(
    batch: int,
    user: np.ndarray,
    node: np.ndarray,
    score: np.ndarray,
    order: np.ndarray,
    slot: np.ndarray,
    beams: int,
) -> _Beams:
    """The best ``beams`` candidates of each user by ``order``, in node order; of equal ones the lower node.

    Candidates come sorted by user and node, for beams are kept in node order and children follow their parents.
    """
    counts = np.bincount(user, minlength=batch)
    widest = max(int(counts.max(initial=0)), 1)
    column = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded = np.full((batch, widest), -np.inf, dtype=np.float32)
    padded[user, column] = order
    if widest > beams:
        taken = _best(padded, beams)[user, column]
        user, node, score, order, slot = user[taken], node[taken], score[taken], order[taken], slot[taken]
        counts = np.bincount(user, minlength=batch)
        widest = max(int(counts.max(initial=0)), 1)
        column = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = _Beams(
        np.full((batch, widest), -1, dtype=np.int64),
        np.full((batch, widest), -np.inf, dtype=np.float32),
        np.full((batch, widest), -np.inf, dtype=np.float32),
        np.zeros((batch, widest), dtype=np.int64),
    )
    chosen.node[user, column], chosen.score[user, column] = node, score
    chosen.order[user, column], chosen.slot[user, column] = order, slot
    return chosen


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Mask of the ``k`` largest of each row, bool [batch, n]; of equal ones at the edge the leftmost."""
    edge = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k][:, None]
    above, level = scores > edge, scores == edge
    room = k - above.sum(axis=1, keepdims=True)
    return np.asarray(above | (level & (np.cumsum(level, axis=1) <= room)))


def _ranked(trie: CodeTrie, state: _Beams, top_k: int) -> Ranked:
    """Leaves by score, the lower leaf first among equals, padded to ``top_k``."""
    order = np.argsort(-state.order, axis=1, kind="stable")[:, :top_k]
    node = np.take_along_axis(state.node, order, axis=1)
    scores = np.take_along_axis(state.order, order, axis=1)
    items = np.where(node >= 0, trie.leaf_row[node.clip(min=0)], -1).astype(np.int32)
    missing = ((0, 0), (0, top_k - items.shape[1]))
    return Ranked(np.pad(items, missing, constant_values=-1), np.pad(scores, missing, constant_values=-np.inf))


def unconstrained_top1(
    scorer: CodeScorer, histories: HistoryBatch, level_sizes: tuple[int, ...], beams: int = 10
) -> np.ndarray:
    """The best code of a beam search that knows no catalogue, int32 [batch, L]: what the model alone believes."""
    session, batch = scorer.start(histories), len(histories.lengths)
    codes = np.zeros((batch, 1, 0), dtype=np.int64)
    scores = np.zeros((batch, 1), dtype=np.float32)
    tokens = parents = None
    for size in level_sizes:
        total = (scores[..., None] + session.advance(tokens, parents)).reshape(batch, -1)
        best = np.argsort(-total, axis=1, kind="stable")[:, :beams]
        parents, tokens = np.divmod(best, size)
        scores = np.take_along_axis(total, best, axis=1)
        codes = np.concatenate([np.take_along_axis(codes, parents[..., None], axis=1), tokens[..., None]], axis=2)
    return codes[:, 0].astype(np.int32)


def exact_scores(scorer: CodeScorer, trie: CodeTrie, histories: HistoryBatch) -> np.ndarray:
    """Score every item along its whole path, float32 [batch, n_items]; the oracle that a wide beam must equal."""
    batch = len(histories.lengths)
    scores = np.zeros((batch, trie.n_items), dtype=np.float32)
    for begin in range(0, trie.n_items, _EXACT_CHUNK):
        leaves = np.arange(begin, min(begin + _EXACT_CHUNK, trie.n_items))
        scores[:, trie.leaf_row[leaves]] = _path_scores(scorer.start(histories), trie, leaves, batch)
    return scores


def _path_scores(session: ScorerSession, trie: CodeTrie, leaves: np.ndarray, batch: int) -> np.ndarray:
    """Scores of some leaves, float32 [batch, len(leaves)]; every leaf is a beam of its own from the first level on."""
    total = np.zeros((batch, len(leaves)), dtype=np.float32)
    tokens = parents = None
    node = np.zeros(len(leaves), dtype=np.int64)
    for level in range(trie.depth):
        log_probs = np.broadcast_to(session.advance(tokens, parents), (batch, len(leaves), trie.level_sizes[level]))
        starts = trie.child_start[level]
        child = np.searchsorted(trie.first_leaf[level + 1], leaves, side="right") - 1
        for column in range(len(leaves)):
            siblings = trie.tokens[level][starts[node[column]] : starts[node[column] + 1]]
            scored = log_probs[:, column, siblings]
            own = log_probs[:, column, trie.tokens[level][child[column]]]
            total[:, column] += own - np.logaddexp.reduce(scored, axis=1)
        node = child
        parents = np.broadcast_to(np.arange(len(leaves)) if level else 0, (batch, len(leaves))).astype(np.int64)
        tokens = np.broadcast_to(trie.tokens[level][child], (batch, len(leaves))).astype(np.int64)
    return total
