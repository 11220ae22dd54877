"""Batched beam search over the trie: all users and beams advance together, and only valid, allowed items come out.

The generative score of an item is the sum over levels of log p(token | prefix, history), renormalised over the children
that the prefix has in the catalogue. A filter never changes a score, and a prefix with one child costs nothing.

The hybrid ranking mixes it with the log-probability that the dense head gives the item. A prefix is kept by the same
mix, with the dense head's opinion of the best item below it that may come out: no item below can get more, so that the
beams lead to the items that will rank high, and a beam as wide as the catalogue is still exact.

Scores fall as a prefix grows, so beams taper: once ``top_k`` items are known, what is below them is dropped. Before
that, the dense head tells what the list will hardly fall below; whoever's list does is searched again without that. So
no list changes.
"""

from dataclasses import dataclass
from math import isfinite, isnan
from typing import NamedTuple, Protocol

import numpy as np

from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.settings import RankingMode
from genrec_core.tiger.trie import CodeTrie

_EXACT_CHUNK = 512  # items scored at once by exact_scores
_LEAST_ODDS = np.float32(1e-30)
_LIKELY_NATS = 1  # of the generative score, below what the list's last item is likely to have


class ScorerSession(Protocol):
    """The decoding of one batch, level by level."""

    def advance(self, tokens: np.ndarray | None, parents: np.ndarray | None) -> np.ndarray:
        """Score the next level.

        Args:
            tokens: tokens chosen at the level before, int64 [batch, width]; None on the first call.
            parents: index of each beam's parent in the width of the previous call, int64 [batch, width]; None likewise.

        Returns:
            Logits over the level's vocabulary, float32 [batch, width, level size]: log-probabilities up to a constant
            a beam, for the search renormalises them over the tokens that the catalogue has there.
        """
        ...

    def item_logits(self) -> np.ndarray:
        """Logits of all items by the dense head, float32 [batch, n_items] by catalogue row."""
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


class _Beams(NamedTuple):
    """Beams of one depth, by user and then by node, so that ties go to the lower leaf.

    Args:
        user: int64 [beams of all users].
        node: int64, likewise.
        score: generative score, float32.
        order: what beams are kept by, float32: the generative score, or its mix with the dense head's best below.
        slot: index in the width of the last call, int64; meaningless for a beam that needed no call.
        branches: whether more than one leaf lies below, bool.
    """

    user: np.ndarray
    node: np.ndarray
    score: np.ndarray
    order: np.ndarray
    slot: np.ndarray
    branches: np.ndarray

    def take(self, which: np.ndarray) -> "_Beams":
        """Some of them, by mask or by index."""
        if which.dtype == np.bool_:
            (which,) = which.nonzero()
        return _Beams(*(part.take(which) for part in self))


class DenseGuide:
    """The dense head's opinion of every node of the trie: its log-probability of the best item below that may come out.

    No mix with it promises a prefix less than one of its items can still get, and none grows with the prefix.

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
        # The last column is no leaf: it ends the range of the last node.
        self.leaves = np.full((len(logits), trie.n_items + 1), -np.inf, dtype=np.float32)
        by_leaf = self.leaves[:, :-1]
        np.subtract(logits.take(trie.leaf_row, axis=1), highest, out=by_leaf)
        self.odds = np.exp(by_leaf)
        by_leaf -= np.log(self.odds.sum(axis=1, keepdims=True))
        live = trie.live_leaves(allowed).allowed
        if live is not None:
            by_leaf[:, ~live] = -np.inf
        if excluded is not None:
            user, column = np.nonzero(excluded >= 0)
            by_leaf[user, trie.row_leaf.take(excluded[user, column])] = -np.inf

    def best(self, depth: int, user: np.ndarray, node: np.ndarray, branches: np.ndarray) -> np.ndarray:
        """The log-probability below nodes of ``depth``, float32 [n]; minus infinity where no item may come out.

        Args:
            depth: 1..L.
            user: int64 [n], ascending.
            node: int64 [n], ascending for each user.
            branches: whether more than one leaf lies below each, bool [n].
        """
        leaves = self.leaves.reshape(-1)
        base = user * self.leaves.shape[1]
        if depth == self.trie.depth:
            return leaves.take(base + node)
        starts = self.trie.first_leaf[depth]
        first = base + starts.take(node)
        best = leaves.take(first)
        (many,) = branches.nonzero()
        if len(many):
            bounds = np.empty((len(many), 2), dtype=np.int64)
            bounds[:, 0] = first.take(many)
            np.add(base.take(many), starts.take(node.take(many) + 1), out=bounds[:, 1])
            best[many] = np.maximum.reduceat(leaves, bounds.reshape(-1))[::2]
        return best

    def likely_edge(self, beams: "_Beams", k: int) -> np.ndarray:
        """What the ``k``-th best item of each user will hardly fall below, float32 [batch].

        The items below a prefix are taken to share its generative probability by the geometric mean of equal shares and
        of those that the dense head gives them. The score of the ``k``-th best is rarely less than that gives (Beauty:
        one user in a hundred, at one nat of the generative score below it).

        Args:
            beams: all nodes of depth 1 of every user.
            k: of at most ``beams``.
        """
        counts, starts = self.trie.branch_sizes, self.trie.first_leaf[1][:-1]
        odds = np.add.reduceat(self.odds, starts, axis=1)
        odds /= odds.sum(axis=1, keepdims=True)
        shares = np.log(np.maximum(odds * counts.astype(np.float32), _LEAST_ODDS))
        shares *= np.float32(-0.5)
        shares += beams.score.reshape(shares.shape) - np.float32(_LIKELY_NATS)
        likely = ((1 - self.weight) * shares).repeat(counts, axis=1)
        likely += (np.float32(0.5) * (1 + self.weight)) * self.leaves[:, :-1]
        place = likely.shape[1] - k
        if place < 0:
            return np.full(len(likely), -np.inf, dtype=np.float32)
        return np.asarray(np.partition(likely, place, axis=1)[:, place])

    def mix(self, score: np.ndarray, best: np.ndarray) -> np.ndarray:
        """The mix of generative scores and what :meth:`best` gave for the same nodes, float32 [n]."""
        return np.asarray((1 - self.weight) * score + self.weight * best)


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
    search = _Search(scorer, trie, beams, top_k, dense_weight)
    with np.errstate(invalid="ignore"):  # logits that are not numbers: an error where they are read
        ranked, unproven = search.run(histories, allowed, excluded, guess=top_k < beams)
        if len(unproven):
            some = HistoryBatch(histories.rows[unproven], histories.lengths[unproven])
            again, _ = search.run(some, allowed, None if excluded is None else excluded[unproven], guess=False)
            ranked.items[unproven], ranked.scores[unproven] = again.items, again.scores
    return ranked


@dataclass(frozen=True)
class _Search:
    """What the users of a batch have in common; arguments as in :func:`beam_search`."""

    scorer: CodeScorer
    trie: CodeTrie
    beams: int
    top_k: int
    dense_weight: float

    def run(
        self, histories: HistoryBatch, allowed: np.ndarray | None, excluded: np.ndarray | None, guess: bool
    ) -> tuple[Ranked, np.ndarray]:
        """Search.

        Args:
            histories, allowed, excluded: as in :func:`beam_search`.
            guess: whether to drop what will hardly reach the list, by the dense head's opinion of all items.

        Returns:
            The items; and the users, int64 [n], whose list does not reach what was guessed, so that it may lack items
            that were dropped. The other lists are the same as without guessing.
        """
        trie, batch, top_k = self.trie, len(histories.lengths), self.top_k
        session = self.scorer.start(histories)
        guide: DenseGuide | _Masks
        if self.dense_weight:
            guide = DenseGuide(trie, session.item_logits(), self.dense_weight, allowed, excluded)
            if self.dense_weight == 1:
                return _ranked(trie, _best_leaves(guide, top_k), batch, top_k), np.zeros(0, dtype=np.int64)
        else:
            guide = _Masks(trie, allowed, excluded)
        floor = np.full(batch, -np.inf, dtype=np.float32)
        state, kept = _first(session, trie, batch, guide)
        for depth in range(1, trie.depth + 1):
            if depth > 1:
                state, kept = _advance(session, trie, depth - 1, state, batch, guide)
            if depth == trie.depth:
                state = state if kept is None else state.take(kept)
                break
            if depth == 1 and guess and isinstance(guide, DenseGuide):
                floor = guide.likely_edge(state, top_k)
            if top_k < self.beams:
                kept = _reachable(state, kept, floor, top_k)
            state = _best(state if kept is None else state.take(kept), batch, self.beams)
        ranked = _ranked(trie, state if batch == 1 else _best(state, batch, top_k), batch, top_k)
        return ranked, np.flatnonzero(ranked.scores[:, -1] < floor)


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

    def open(self, depth: int, beams: _Beams) -> np.ndarray | None:
        """Which of ``depth`` are not closed, bool [n]; they come by user and then by node. None for all."""
        found = None if self.live is None else self.live[depth].take(beams.node) > 0
        if self.dead is None or not len(self.dead[depth]):
            return found
        keys = beams.user * self.trie.nodes(depth) + beams.node  # sorted
        place = np.searchsorted(keys, self.dead[depth])
        inside = place < len(keys)
        place = place[inside]
        if found is None:
            found = np.ones(len(keys), dtype=bool)
        found[place[keys[place] == self.dead[depth][inside]]] = False
        return found


def _best_leaves(guide: DenseGuide, top_k: int) -> _Beams:
    """The best ``top_k`` leaves of each user by the dense head alone."""
    by_leaf = guide.leaves[:, :-1]
    user, leaf = np.nonzero(_largest(by_leaf, min(top_k, by_leaf.shape[1])) & (by_leaf > -np.inf))
    order = by_leaf[user, leaf]
    return _Beams(user, leaf, order, order, leaf, np.zeros(len(leaf), dtype=bool))


def _reachable(beams: _Beams, kept: np.ndarray | None, floor: np.ndarray, top_k: int) -> np.ndarray:
    """Which of the beams that are ``kept`` can still give one of a user's ``top_k`` items, and one above ``floor``.

    A prefix of one item has its final score already, and no other prefix rises: below ``top_k`` such scores, it is out.
    Where a width would cut one of those items, it cuts all that is below it too. So this changes no list that reaches
    the floor.

    Args:
        beams: of one depth.
        kept: bool [n]; None for all.
        floor: float32 [batch].
        top_k: items wanted.
    """
    (final,) = (~beams.branches if kept is None else kept & ~beams.branches).nonzero()
    if len(final) >= top_k:
        known, _ = _by_user(beams.order.take(final), beams.user.take(final), len(floor))
        place = known.shape[1] - top_k
        if place >= 0:
            floor = np.maximum(floor, np.partition(known, place, axis=1)[:, place])
    reached: np.ndarray = beams.order >= (floor if len(floor) == 1 else floor.take(beams.user))
    return reached if kept is None else reached & kept


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


def _first(
    session: ScorerSession, trie: CodeTrie, batch: int, guide: "DenseGuide | _Masks"
) -> tuple[_Beams, np.ndarray | None]:
    """Level 0, like :func:`_advance`: every user's beams are all nodes of depth 1."""
    nodes = trie.nodes(1)
    log_probs = np.zeros((batch, nodes), dtype=np.float32)
    if trie.n_items > 1:
        np.take(session.advance(None, None)[:, 0], trie.tokens[0], axis=1, out=log_probs)
        log_probs -= log_probs.max(axis=1, keepdims=True)
        log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
        _require_numbers(log_probs.max(axis=1), 0)
    node, branches = np.empty((batch, nodes), dtype=np.int64), np.empty((batch, nodes), dtype=bool)
    node[:], branches[:] = np.arange(nodes), trie.branch_sizes > 1
    user, slot = np.arange(batch).repeat(nodes), np.zeros(batch * nodes, dtype=np.int64)
    return _as_beams(guide, 1, user, node.reshape(-1), log_probs.reshape(-1), slot, branches.reshape(-1))


def _advance(
    session: ScorerSession, trie: CodeTrie, level: int, state: _Beams, batch: int, guide: "DenseGuide | _Masks"
) -> tuple[_Beams, np.ndarray | None]:
    """One level down: all children of all beams of each user; and which of them are open, bool, or None for all."""
    logits, state = _score_branching(session, trie, level, state, batch)
    starts = trie.child_start[level]
    first = starts.take(state.node).astype(np.int64)
    counts = starts.take(state.node + 1) - first
    ends = counts.cumsum()
    parent = np.arange(len(counts)).repeat(counts)
    shift: np.ndarray = first - (ends - counts)
    child = np.arange(ends[-1] if len(ends) else 0) + shift.take(parent)
    score = state.score.take(parent)
    if logits is not None:
        score += _child_log_probs(logits, trie.tokens[level].take(child), state, parent, ends - counts, level)
    user, slot, branches = state.user.take(parent), state.slot.take(parent), trie.leaves(level + 1, child) > 1
    return _as_beams(guide, level + 1, user, child, score, slot, branches)


def _as_beams(
    guide: "DenseGuide | _Masks",
    depth: int,
    user: np.ndarray,
    node: np.ndarray,
    score: np.ndarray,
    slot: np.ndarray,
    branches: np.ndarray,
) -> tuple[_Beams, np.ndarray | None]:
    """Nodes as beams with what they are kept by, and which of them are open, bool, or None for all."""
    if isinstance(guide, _Masks):
        beams = _Beams(user, node, score, score, slot, branches)
        return beams, guide.open(depth, beams)
    best = guide.best(depth, user, node, branches)
    open_ones = best > -np.inf
    return _Beams(user, node, score, guide.mix(score, best), slot, branches), None if open_ones.all() else open_ones


def _score_branching(
    session: ScorerSession, trie: CodeTrie, level: int, state: _Beams, batch: int
) -> tuple[np.ndarray | None, _Beams]:
    """Score the beams that have more than one leaf below them; the others end in one item whatever the model says.

    Returns:
        The logits [batch, width, level size], None where no beam needed them; and the beams with their index in the
        width of this call.
    """
    (branching,) = state.branches.nonzero()
    user = state.user.take(branching)
    counts = np.bincount(user, minlength=batch)
    width = int(counts.max(initial=0))
    column = np.arange(len(branching)) - (counts.cumsum() - counts).take(user)
    slot = np.zeros(len(state.node), dtype=np.int64)
    slot[branching] = column
    scored = state._replace(slot=slot)
    if width == 0:
        return None, scored
    tokens = np.zeros((batch, width), dtype=np.int64)
    parents = np.zeros((batch, width), dtype=np.int64)
    place = user * width + column
    tokens.reshape(-1)[place] = trie.tokens[level - 1].take(state.node.take(branching))
    parents.reshape(-1)[place] = state.slot.take(branching)
    return session.advance(tokens, parents), scored


def _child_log_probs(
    logits: np.ndarray, token: np.ndarray, state: _Beams, parent: np.ndarray, first: np.ndarray, level: int
) -> np.ndarray:
    """Log-probability of every child among its siblings, float32 [children]; 0 for children of beams not scored.

    Args:
        logits: float32 [batch, width, level size].
        token: token of each child.
        state: the parents.
        parent: which of them each child has.
        first: where the children of each parent begin.
        level: for the error.
    """
    width, size = logits.shape[1:]
    base = (state.user * width + state.slot) * size
    raw = logits.take(base.take(parent) + token)
    if not state.branches.all():  # an only child, whatever was read for it
        raw[~state.branches.take(parent)] = 0
    raw -= np.maximum.reduceat(raw, first).take(parent)
    total = np.log(np.add.reduceat(np.exp(raw), first))
    _require_numbers(total, level)
    raw -= total.take(parent)
    return raw


def _require_numbers(found: np.ndarray, level: int) -> None:
    """A NaN compares with nothing, so that its user would silently lose every beam."""
    if isnan(found.sum()):
        raise GenrecError(f"level {level}: the model's logits are not numbers; train or export it again")


def _best(beams: _Beams, batch: int, k: int) -> _Beams:
    """The best ``k`` of each user by ``order``, in the order they come; of equal ones the first."""
    padded, place = _by_user(beams.order, beams.user, batch)
    return beams if padded.shape[1] <= k else beams.take(_largest(padded, k).take(place))


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


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Mask of the ``k`` largest of each row, bool [batch, n]; of equal ones at the edge the leftmost."""
    edge = np.partition(scores, scores.shape[1] - k, axis=1)[:, scores.shape[1] - k][:, None]
    found = scores >= edge
    if np.count_nonzero(found) > k * len(scores):
        above = scores > edge
        level = found & ~above
        found = above | (level & (level.cumsum(axis=1) <= k - above.sum(axis=1, keepdims=True)))
    return found


def _ranked(trie: CodeTrie, state: _Beams, batch: int, top_k: int) -> Ranked:
    """Leaves by score, the lower leaf first among equals, padded to ``top_k``."""
    best = np.lexsort((-state.order, state.user)) if batch > 1 else np.argsort(-state.order, kind="stable")
    user = state.user[best]
    counts = np.bincount(user, minlength=batch)
    rank = np.arange(len(user)) - (counts.cumsum() - counts)[user]
    kept = rank < top_k
    user, rank, best = user[kept], rank[kept], best[kept]
    items = np.full((batch, top_k), -1, dtype=np.int32)
    scores = np.full((batch, top_k), -np.inf, dtype=np.float32)
    items[user, rank] = trie.leaf_row[state.node[best]]
    scores[user, rank] = state.order[best]
    return Ranked(items, scores)


def unconstrained_top1(
    scorer: CodeScorer, histories: HistoryBatch, level_sizes: tuple[int, ...], beams: int = 10
) -> np.ndarray:
    """The best code of a beam search that knows no catalogue, int32 [batch, L]: what the model alone believes."""
    session, batch = scorer.start(histories), len(histories.lengths)
    codes = np.zeros((batch, 1, 0), dtype=np.int64)
    scores = np.zeros((batch, 1), dtype=np.float32)
    tokens = parents = None
    for size in level_sizes:
        logits = session.advance(tokens, parents)
        logits = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        total = (scores[..., None] + logits).reshape(batch, -1)
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
