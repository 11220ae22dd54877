"""Batched search over the trie: all users advance together, and only valid, allowed items come out.

The generative score of an item is the sum over levels of log p(token | prefix, history), renormalised over the children
that the prefix has in the catalogue. A filter never changes a score, and a prefix with one child costs nothing. The
hybrid ranking, which mixes it with what the dense head gives the item, is searched by
:mod:`genrec_core.search.hybrid`; here prefixes are, by their own score.

Scores fall as a prefix grows, so beams taper: once ``top_k`` items are known, what is below them is dropped. No list
changes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.search.beams import (
    CodeScorer,
    Ranked,
    ScorerSession,
    children,
    first_log_probs,
    keep,
    largest,
    require_numbers,
)
from genrec_core.search.hybrid import DenseGuide, search_items
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import RankingMode

_EXACT_CHUNK = 512  # items scored at once by exact_scores
_ROUNDING = np.float32(1e-3)  # of a score, and more than that, when a user is searched again with others


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
    if not 0 <= dense_weight <= 1:
        raise GenrecError(f"dense_weight {dense_weight} is no share; give a number from 0 to 1")
    with np.errstate(invalid="ignore"):  # logits that are not numbers: an error where they are read
        if not dense_weight:
            masks = _Masks(trie, allowed, excluded)
            return _search_prefixes(scorer.start(histories), trie, masks, batch, beams, top_k)
        session = scorer.start(histories)
        guide = DenseGuide(trie, session.item_logits(), dense_weight, allowed, excluded)
        if dense_weight == 1:
            return guide.best(top_k)
        ranked, unproven = search_items(session, guide, beams, top_k)
        if len(unproven):
            again = scorer.start(HistoryBatch(histories.rows[unproven], histories.lengths[unproven]))
            some = None if excluded is None else excluded[unproven]
            guide = DenseGuide(trie, again.item_logits(), dense_weight, allowed, some)
            reached = ranked.scores[unproven, -1] - _ROUNDING
            found, _ = search_items(again, guide, beams, top_k, reached)
            ranked.items[unproven], ranked.scores[unproven] = found.items, found.scores
    return ranked


class _Beams(NamedTuple):
    """Beams of one depth, by user and then by node, so that ties go to the lower leaf.

    Args:
        user: int64 [beams of all users].
        node: int64, likewise.
        score: float32.
        slot: which beam of the last call scored it, int64; meaningless for a beam that needed no call.
        branches: whether more than one leaf lies below, bool.
    """

    user: np.ndarray
    node: np.ndarray
    score: np.ndarray
    slot: np.ndarray
    branches: np.ndarray


def _search_prefixes(
    session: ScorerSession, trie: CodeTrie, masks: "_Masks", batch: int, beams: int, top_k: int
) -> Ranked:
    """The best items by the generative score alone; arguments as in :func:`beam_search`."""
    found = masks.open(1, _first(session, trie, batch))
    for level in range(1, trie.depth):
        if top_k < beams:
            found = keep(found, _reachable(found, batch, top_k))
        padded, place = _by_user(found.score, found.user, batch)
        if padded.shape[1] > beams:
            found = keep(found, largest(padded, beams).take(place))
        found = masks.open(level + 1, _advance(session, trie, level, found))
    return Ranked.of(trie, found.user, found.node, found.score, batch, top_k)


class _Masks:
    """The nodes that a filter closes: those without a leaf that is allowed and not excluded.

    Args:
        trie: the catalogue.
        allowed, excluded: as in :func:`beam_search`.
    """

    def __init__(self, trie: CodeTrie, allowed: np.ndarray | None, excluded: np.ndarray | None) -> None:
        live = trie.live_leaves(allowed)
        self.trie, self.live = trie, None if allowed is None else live
        self.dead = None if excluded is None else trie.dead_nodes(excluded, live)

    def open(self, depth: int, beams: _Beams) -> _Beams:
        """Those of ``depth`` that are not closed."""
        found = None if self.live is None else self.live[depth].take(beams.node) > 0
        if self.dead is not None and len(self.dead[depth]):
            keys = beams.user * self.trie.nodes(depth) + beams.node  # sorted
            place = np.searchsorted(keys, self.dead[depth])
            inside = place < len(keys)
            place = place[inside]
            if found is None:
                found = np.ones(len(keys), dtype=bool)
            found[place[keys[place] == self.dead[depth][inside]]] = False
        return beams if found is None else keep(beams, found)


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


def _first(session: ScorerSession, trie: CodeTrie, batch: int) -> _Beams:
    """All nodes of depth 1, of every user."""
    score = first_log_probs(session, trie, batch)
    nodes = score.shape[1]
    user, node = np.divmod(np.arange(batch * nodes), nodes)
    return _Beams(user, node, score.reshape(-1), user, trie.leaves(1, node) > 1)


def _reachable(beams: _Beams, batch: int, top_k: int) -> np.ndarray:
    """Which beams can still give one of a user's ``top_k`` items, bool.

    A prefix of one item has its final score already, and no other prefix rises: below ``top_k`` such scores, it is out.
    Where a width would cut one of those items, it cuts all that is below it too. So this changes no list.
    """
    (final,) = (~beams.branches).nonzero()
    known, _ = _by_user(beams.score.take(final), beams.user.take(final), batch)
    place = known.shape[1] - top_k
    if place < 0:
        return np.ones(len(beams.user), dtype=bool)
    floor = np.partition(known, place, axis=1)[:, place]
    return np.asarray(beams.score >= floor.take(beams.user))


def _by_user(values: np.ndarray, user: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Values [n] in a row a user, float32 [batch, most], padded with minus infinity, and where in it each one went."""
    if batch == 1:
        return values[None], np.arange(len(values))
    counts = np.bincount(user, minlength=batch)
    widest = int(counts.max(initial=0))
    shift: np.ndarray = np.arange(batch) * widest - (counts.cumsum() - counts)
    place = np.arange(len(user)) + shift.take(user)
    padded = np.full((batch, widest), -np.inf, dtype=np.float32)
    padded.reshape(-1)[place] = values
    return padded, place


def _advance(session: ScorerSession, trie: CodeTrie, level: int, state: _Beams) -> _Beams:
    """One level down: all children of all beams.

    Beams that have more than one leaf below them are scored; the others end in one item whatever the model says.
    """
    child, begins, counts = children(trie, level, state.node)
    (open_,) = state.branches.nonzero()
    slot = np.zeros(len(state.node), dtype=np.int64)
    slot[open_] = np.arange(len(open_))
    score = state.score.repeat(counts)
    if len(open_):
        tokens = trie.tokens[level - 1].take(state.node.take(open_)).astype(np.int64)
        logits = session.advance(tokens, state.slot.take(open_), state.user.take(open_))
        raw = logits.take((slot * logits.shape[1]).repeat(counts) + trie.tokens[level].take(child))
        if len(open_) < len(slot):  # an only child, whatever was read for it
            raw[~state.branches.repeat(counts)] = 0
        raw -= np.maximum.reduceat(raw, begins).repeat(counts)
        total = np.log(np.add.reduceat(np.exp(raw), begins))
        require_numbers(total, level)
        raw -= total.repeat(counts)
        score += raw
    below = trie.leaves(level + 1, child) > 1
    return _Beams(state.user.repeat(counts), child, score, slot.repeat(counts), below)


def unconstrained_top1(
    scorer: CodeScorer, histories: HistoryBatch, level_sizes: tuple[int, ...], beams: int = 10
) -> np.ndarray:
    """The best code of a beam search that knows no catalogue, int32 [batch, L]: what the model alone believes."""
    session, batch = scorer.start(histories), len(histories.lengths)
    codes = np.zeros((batch, 1, 0), dtype=np.int64)
    scores = np.zeros((batch, 1), dtype=np.float32)
    parents, logits = np.zeros((batch, 1), dtype=np.int64), session.first()
    for level, size in enumerate(level_sizes):
        width = scores.shape[1]
        if level:
            beam = np.arange(batch).repeat(width)
            logits = session.advance(codes[:, :, -1].reshape(-1), parents.reshape(-1), beam)
        log_probs = (logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)).reshape(batch, width, size)
        total = (scores[..., None] + log_probs).reshape(batch, -1)
        best = np.argsort(-total, axis=1, kind="stable")[:, :beams]
        above, tokens = np.divmod(best, size)
        scores = np.take_along_axis(total, best, axis=1)
        codes = np.concatenate([np.take_along_axis(codes, above[..., None], axis=1), tokens[..., None]], axis=2)
        parents = above + width * np.arange(batch)[:, None]
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
    count = len(leaves)
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
            siblings = trie.tokens[level][starts[node[column]] : starts[node[column] + 1]]
            own = by_leaf[:, column, trie.tokens[level][child[column]]]
            total[:, column] += own - np.logaddexp.reduce(by_leaf[:, column, siblings], axis=1)
        node = child
    return total
