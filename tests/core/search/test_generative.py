"""The search against exact scoring, and the rules that no result may break."""

import math
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_core.data.histories import HistoryBatch, padded
from genrec_core.errors import GenrecError
from genrec_core.search.beams import Lifted
from genrec_core.search.generative import PrefixLift, Ranked, beam_search, exact_scores, unconstrained_top1
from genrec_core.search.trie import CodeTrie


class HashScorer:
    """Log-probabilities that depend on the history and the whole prefix, so that a wrong parent shows."""

    def __init__(self, level_sizes: tuple[int, ...], lifted: Lifted | None = None) -> None:
        self.level_sizes, self.lifted = level_sizes, lifted
        self.calls: list[int] = []

    def start(self, histories: HistoryBatch) -> "HashSession":
        keys = [row[:length].tobytes() for row, length in zip(histories.rows, histories.lengths, strict=True)]
        return HashSession(self, keys)


class DenseHashScorer(HashScorer):
    """The same with a dense head whose log-probabilities depend on the history."""

    def __init__(self, level_sizes: tuple[int, ...], n_items: int, lifted: Lifted | None = None) -> None:
        super().__init__(level_sizes, lifted)
        self.n_items = n_items


class HashSession:
    def __init__(self, scorer: HashScorer, keys: list[bytes]) -> None:
        self.scorer, self.prefixes, self.users, self.level = scorer, keys, list(range(len(keys))), 0

    def item_logits(self) -> np.ndarray:
        assert isinstance(self.scorer, DenseHashScorer)
        return 3 + np.stack([HashSession._log_probs(b"dense" + key, self.scorer.n_items) for key in self.prefixes])

    def matches(self, trie: CodeTrie) -> None:
        return None

    def lifted(self) -> Lifted | None:
        return self.scorer.lifted

    def first(self) -> np.ndarray:
        assert self.level == 0
        return self._scored()

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        assert tokens.shape == parents.shape == users.shape
        assert tokens.dtype == parents.dtype == users.dtype == np.int64
        assert (np.diff(users) >= 0).all()
        assert ((tokens >= 0) & (tokens < self.scorer.level_sizes[self.level - 1])).all()
        assert [self.users[parent] for parent in parents] == users.tolist()
        self.users = users.tolist()
        pairs = zip(tokens.tolist(), parents.tolist(), strict=True)
        self.prefixes = [self.prefixes[parent] + bytes([token]) for token, parent in pairs]
        return self._scored()

    def _scored(self) -> np.ndarray:
        size = self.scorer.level_sizes[self.level]
        self.level += 1
        self.scorer.calls.append(len(self.prefixes))
        return np.stack([self._log_probs(prefix, size) for prefix in self.prefixes])

    @staticmethod
    def _log_probs(prefix: bytes, size: int) -> np.ndarray:
        logits = np.random.default_rng(zlib.crc32(prefix)).normal(size=size).astype(np.float32) * 2
        return logits - np.logaddexp.reduce(logits)


class TableScorer:
    """The same log-probabilities for every prefix of a level, given as a table of probabilities."""

    def __init__(self, *levels: list[float], lifted: Lifted | None = None) -> None:
        self.raised = lifted
        with np.errstate(divide="ignore"):
            self.levels = [np.log(np.array(level, dtype=np.float32)) for level in levels]

    def start(self, histories: HistoryBatch) -> "TableSession":
        return TableSession(self, len(histories.lengths))


class DenseTableScorer(TableScorer):
    """The same with the dense head's probabilities of every item."""

    def __init__(self, items: list[float], *levels: list[float]) -> None:
        super().__init__(*levels)
        self.items = np.log(np.array(items, dtype=np.float32))

    def start(self, histories: HistoryBatch) -> "DenseTableSession":
        return DenseTableSession(self, len(histories.lengths))


class CountingScorer:
    """Another scorer, and how many beams each call scored."""

    def __init__(self, scorer: TableScorer) -> None:
        self.scorer, self.widths = scorer, list[int]()

    def start(self, histories: HistoryBatch) -> "CountingScorer":
        self.session = self.scorer.start(histories)
        return self

    def item_logits(self) -> np.ndarray:
        assert isinstance(self.session, DenseTableSession)
        return self.session.item_logits()

    def matches(self, trie: CodeTrie) -> None:
        return None

    def lifted(self) -> Lifted | None:
        return self.session.lifted()

    def first(self) -> np.ndarray:
        self.widths.append(1)
        return self.session.first()

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        self.widths.append(int(np.bincount(users).max()))
        return self.session.advance(tokens, parents, users)


class TableSession:
    def __init__(self, scorer: TableScorer, batch: int) -> None:
        self.raised, self.levels, self.batch = scorer.raised, iter(scorer.levels), batch

    def matches(self, trie: CodeTrie) -> None:
        return None

    def lifted(self) -> Lifted | None:
        return self.raised

    def first(self) -> np.ndarray:
        return np.tile(next(self.levels), (self.batch, 1))

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        return np.tile(next(self.levels), (len(tokens), 1))


class DenseTableSession(TableSession):
    def __init__(self, scorer: DenseTableScorer, batch: int) -> None:
        super().__init__(scorer, batch)
        self.logits = np.tile(scorer.items, (batch, 1))

    def item_logits(self) -> np.ndarray:
        return self.logits


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    sizes = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    every = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    chosen = draw(st.lists(st.integers(0, len(every) - 1), min_size=1, max_size=40, unique=True))
    return every[chosen], sizes


HISTORIES = padded([np.array([3, 1], np.int32), np.array([2], np.int32), np.array([9, 9, 9], np.int32)], 10)


def search(trie: CodeTrie, **options: object) -> Ranked:
    arguments = {"beams": trie.n_items, "top_k": trie.n_items, **options}
    return beam_search(HashScorer(trie.level_sizes), trie, HISTORIES, **arguments)


def masks(data: st.DataObject, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """An allow mask, and rows excluded for each of three users (repeats and padding included)."""
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=n_items, max_size=n_items)))
    rows = st.lists(st.integers(-1, n_items - 1), min_size=5, max_size=5)
    return allowed, np.array([data.draw(rows) for _ in range(3)], dtype=np.int32)


def lifts(data: st.DataObject, n_items: int) -> Lifted:
    """Bonuses of some items of each of three users."""
    pairs = data.draw(st.lists(st.integers(0, 3 * n_items - 1), unique=True))
    user, row = np.divmod(np.array(sorted(pairs), dtype=np.int64), n_items)
    bonus = np.array([data.draw(st.floats(0.125, 12, width=32)) for _ in pairs], dtype=np.float32)
    return Lifted(user, row, bonus)


@settings(max_examples=200, deadline=None)
@given(catalogues(), st.data(), st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_a_beam_as_wide_as_the_catalogue_is_exact_under_any_filter_and_mix(catalogue, data, weight):
    trie = CodeTrie.build(*catalogue)
    allowed, excluded = masks(data, trie.n_items)
    scorer = DenseHashScorer(trie.level_sizes, trie.n_items, lifts(data, trie.n_items))
    options = {"beams": trie.n_items, "top_k": trie.n_items, "allowed": allowed, "excluded": excluded}
    ranked = beam_search(scorer, trie, HISTORIES, dense_weight=weight, **options)
    scores = exact_scores(scorer, trie, HISTORIES, weight)
    for user in range(3):
        left = [row for row in range(trie.n_items) if allowed[row] and row not in excluded[user].tolist()]
        got = [row for row in ranked.items[user].tolist() if row >= 0]
        assert sorted(got) == left
        np.testing.assert_allclose(ranked.scores[user, : len(got)], scores[user, got], atol=1e-5)
        assert (np.diff(ranked.scores[user, : len(got)]) <= 0).all()


@settings(max_examples=200, deadline=None)
@given(catalogues(), st.integers(1, 12), st.data())
def test_lifted_items_are_found_by_their_exact_scores_which_are_those_of_all_items(catalogue, beams, data):
    trie = CodeTrie.build(*catalogue)
    scorer = HashScorer(trie.level_sizes, lifts(data, trie.n_items))
    scores = exact_scores(scorer, trie, HISTORIES)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-4)
    ranked = beam_search(scorer, trie, HISTORIES, beams=trie.n_items, top_k=trie.n_items)
    np.testing.assert_allclose(ranked.scores, np.take_along_axis(scores, ranked.items, axis=1), atol=1e-4)
    kept = beam_search(scorer, trie, HISTORIES, beams=beams, top_k=beams)
    top_k = data.draw(st.integers(1, beams))
    np.testing.assert_array_equal(
        beam_search(scorer, trie, HISTORIES, beams=beams, top_k=top_k).items, kept.items[:, :top_k]
    )


@settings(max_examples=100, deadline=None)
@given(catalogues(), st.data())
def test_where_all_items_are_equally_likely_a_bonus_multiplies_an_items_probability(catalogue, data):
    trie = CodeTrie.build(*catalogue)
    lifted = lifts(data, trie.n_items)
    leaves = [np.diff(starts) for starts in trie.first_leaf]

    class Even:
        """Each token's share of the items below the prefix, so that all items are equally likely."""

        def start(self, histories: HistoryBatch) -> "Even":
            self.nodes, self.level = np.zeros(len(histories.lengths), dtype=np.int64), 0
            return self

        def lifted(self) -> Lifted:
            return lifted

        def first(self) -> np.ndarray:
            logits = np.zeros((len(self.nodes), trie.level_sizes[self.level]), dtype=np.float32)
            for row, node in zip(logits, self.nodes, strict=True):
                child = slice(*trie.child_start[self.level][node : node + 2])
                row[trie.tokens[self.level][child]] = np.log(leaves[self.level + 1][child])
            return logits

        def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
            starts, before = trie.child_start[self.level], trie.tokens[self.level]
            above = self.nodes[parents]
            self.nodes = np.array(
                [
                    start + list(before[start:end]).index(token)
                    for start, end, token in zip(starts[above], starts[above + 1], tokens, strict=True)
                ]
            )
            self.level += 1
            return self.first()

    ranked = beam_search(Even(), trie, HISTORIES, beams=trie.n_items, top_k=trie.n_items)
    wanted = np.zeros((3, trie.n_items))
    wanted[lifted.user, lifted.row] = lifted.bonus
    wanted -= np.logaddexp.reduce(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(ranked.scores, np.take_along_axis(wanted, ranked.items, axis=1), atol=1e-4)


def test_a_huge_bonus_stays_a_number() -> None:
    trie = CodeTrie.build(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), (2, 2))
    lifted = Lifted(np.array([0, 0]), np.array([2, 3]), np.array([5000, 4000], dtype=np.float32))
    ((other, lift),) = PrefixLift(trie, lifted).table(1, 1)
    assert other == 0
    assert 500 < lift < math.inf


def test_the_dense_head_leads_a_narrow_beam_past_a_prefix_that_the_decoder_prefers():
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    trie = CodeTrie.build(codes, (2, 2))

    scorer = DenseTableScorer([0.01, 0.01, 0.08, 0.9], [0.6, 0.4], [0.5, 0.5])
    assert beam_search(scorer, trie, HISTORIES, beams=1, top_k=1).items.tolist() == [[0]] * 3
    assert beam_search(scorer, trie, HISTORIES, beams=1, top_k=1, dense_weight=0.5).items.tolist() == [[3]] * 3


@settings(max_examples=200, deadline=None)
@given(catalogues(), st.integers(1, 12), st.data(), st.sampled_from([0.0, 0.3, 0.9]))
def test_dropping_what_cannot_reach_the_list_changes_no_list(catalogue, beams, data, weight):
    trie = CodeTrie.build(*catalogue)
    allowed, excluded = masks(data, trie.n_items)
    scorer = DenseHashScorer(trie.level_sizes, trie.n_items)
    options = {"beams": beams, "allowed": allowed, "excluded": excluded, "dense_weight": weight}
    top_k = data.draw(st.integers(1, beams))
    kept = beam_search(scorer, trie, HISTORIES, top_k=beams, **options)  # a list as long as the beam drops nothing
    ranked = beam_search(scorer, trie, HISTORIES, top_k=top_k, **options)
    np.testing.assert_array_equal(ranked.items, kept.items[:, :top_k])
    np.testing.assert_array_equal(ranked.scores, kept.scores[:, :top_k])


def test_beams_below_enough_known_items_are_not_scored():
    codes = np.array([[0, 0], [1, 0], [2, 0], [2, 1], [3, 0], [3, 1]])
    trie = CodeTrie.build(codes, (4, 2))
    scorer = TableScorer([0.4, 0.3, 0.2, 0.1], [0.5, 0.5])
    counted = CountingScorer(scorer)
    assert beam_search(counted, trie, HISTORIES, beams=6, top_k=2).items.tolist() == [[0, 1]] * 3
    assert counted.widths == [1]
    assert beam_search(counted, trie, HISTORIES, beams=6, top_k=6).items.tolist() == [[0, 1, 2, 3, 4, 5]] * 3
    assert counted.widths == [1, 1, 2]


def test_a_list_that_falls_below_what_was_guessed_is_searched_again():
    codes = np.array([[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1]])
    trie = CodeTrie.build(codes, (2, 4))
    options = {"beams": 5, "top_k": 2, "dense_weight": 0.5}
    even = CountingScorer(DenseTableScorer([0.3, 0.3, 0.18, 0.18, 0.02, 0.02], [0.8, 0.2], [0.25] * 4))
    assert beam_search(even, trie, HISTORIES, **options).items.tolist() == [[0, 1]] * 3
    assert even.widths == [1, 1]  # prefix 1 is out of reach
    surprising = DenseTableScorer([0.3, 0.3, 0.18, 0.18, 0.02, 0.02], [0.8, 0.2], [0.999997, 1e-6, 1e-6, 1e-6])
    counted = CountingScorer(surprising)
    wide = beam_search(surprising, trie, HISTORIES, beams=6, top_k=6, dense_weight=0.5)
    assert beam_search(counted, trie, HISTORIES, **options).items.tolist() == wide.items[:, :2].tolist() == [[0, 4]] * 3
    assert counted.widths == [1, 1, 1, 2]


def test_an_item_that_may_not_come_out_leads_no_beam():
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    trie = CodeTrie.build(codes, (2, 2))
    scorer = DenseTableScorer([0.01, 0.9, 0.05, 0.04], [0.5, 0.5], [0.5, 0.5])
    options = {"beams": 1, "top_k": 1, "dense_weight": 0.5}
    assert beam_search(scorer, trie, HISTORIES, **options).items.tolist() == [[1]] * 3
    excluded = np.array([[1], [-1], [1]])
    assert beam_search(scorer, trie, HISTORIES, excluded=excluded, **options).items.tolist() == [[2], [1], [2]]
    allowed = np.array([True, False, True, True])
    assert beam_search(scorer, trie, HISTORIES, allowed=allowed, **options).items.tolist() == [[2]] * 3


@settings(max_examples=80, deadline=None)
@given(catalogues(), st.integers(1, 12), st.data())
def test_narrow_beams_give_valid_allowed_unique_items_best_first_and_never_too_few(catalogue, beams, data):
    trie = CodeTrie.build(*catalogue)
    allowed, excluded = masks(data, trie.n_items)
    top_k = data.draw(st.integers(1, beams))
    ranked = search(trie, beams=beams, top_k=top_k, allowed=allowed, excluded=excluded)
    for user in range(3):
        left = {row for row in range(trie.n_items) if allowed[row]} - set(excluded[user].tolist())
        got = [row for row in ranked.items[user].tolist() if row >= 0]
        assert len(got) == len(set(got)) == min(top_k, len(left))
        assert set(got) <= left
        found = ranked.scores[user, : len(got)]
        assert (np.diff(found) <= 0).all()


def reference_search(
    codes: np.ndarray, sizes: tuple[int, ...], history: bytes, beams: int, left: set[int]
) -> list[int]:
    """Beam search of one user over plain prefixes; ``left`` are the rows that the filters leave."""
    items = [tuple(code) for code in codes.tolist()]
    kept = {(): 0.0}
    for level, size in enumerate(sizes):
        found = {}
        for prefix, score in kept.items():
            log_probs = HashSession._log_probs(history + bytes(prefix), size).astype(np.float64)
            children = sorted({item[level] for item in items if item[:level] == prefix})
            total = np.logaddexp.reduce(log_probs[children])
            found |= {(*prefix, token): score + log_probs[token] - total for token in children}
        live = {items[row][: level + 1] for row in left}
        best = sorted((prefix for prefix in found if prefix in live), key=lambda prefix: -found[prefix])[:beams]
        kept = {prefix: found[prefix] for prefix in best}
    return [items.index(prefix) for prefix in kept]


@settings(max_examples=80, deadline=None)
@given(catalogues(), st.integers(1, 12), st.data())
def test_narrow_beams_find_what_a_plain_beam_search_finds(catalogue, beams, data):
    trie = CodeTrie.build(*catalogue)
    allowed, excluded = masks(data, trie.n_items)
    ranked = search(trie, beams=beams, top_k=beams, allowed=allowed, excluded=excluded)
    for user, (row, length) in enumerate(zip(HISTORIES.rows, HISTORIES.lengths, strict=True)):
        left = set(np.flatnonzero(allowed).tolist()) - set(excluded[user].tolist())
        wanted = reference_search(*catalogue, row[:length].tobytes(), beams, left)
        assert [item for item in ranked.items[user].tolist() if item >= 0] == wanted


@settings(max_examples=30, deadline=None)
@given(catalogues())
def test_probabilities_of_all_items_sum_to_one(catalogue):
    trie = CodeTrie.build(*catalogue)
    scores = exact_scores(HashScorer(trie.level_sizes), trie, HISTORIES)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-4)


def test_a_user_alone_gets_what_the_user_gets_in_a_batch():
    random = np.random.default_rng(0)
    codes = np.unique(random.integers(0, 8, (150, 3)), axis=0)
    trie = CodeTrie.build(codes, (8, 8, 8))
    together = search(trie, beams=7, top_k=5)
    for user, length in enumerate(HISTORIES.lengths):
        alone = HistoryBatch(HISTORIES.rows[user : user + 1, :length], HISTORIES.lengths[user : user + 1])
        ranked = beam_search(HashScorer(trie.level_sizes), trie, alone, beams=7, top_k=5)
        np.testing.assert_array_equal(ranked.items[0], together.items[user])
        np.testing.assert_allclose(ranked.scores[0], together.scores[user], atol=1e-6)


def test_only_prefixes_that_still_branch_are_scored():
    codes = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [2, 0, 1]])
    trie = CodeTrie.build(codes, (3, 1, 2))
    scorer = HashScorer(trie.level_sizes)
    beam_search(scorer, trie, HISTORIES, beams=4, top_k=4)
    assert scorer.calls == [3, 3, 3]  # only prefix 2, though its next level has one child


def test_a_prefix_with_one_child_is_scored_where_a_deeper_level_branches():
    codes = np.array([[0, 0, 0, 1], [0, 0, 0, 2], [1, 1, 0, 0], [1, 1, 1, 0]])
    trie = CodeTrie.build(codes, (2, 2, 2, 3))
    scorer = HashScorer(trie.level_sizes)
    ranked = beam_search(scorer, trie, HISTORIES, beams=4, top_k=4)
    scores = exact_scores(HashScorer(trie.level_sizes), trie, HISTORIES)
    assert scorer.calls == [3, 6, 6, 3]
    np.testing.assert_allclose(ranked.scores, np.take_along_axis(scores, ranked.items, axis=1), atol=1e-5)


def test_a_catalogue_of_one_item_asks_the_model_nothing():
    scorer = HashScorer((3, 3))
    ranked = beam_search(scorer, CodeTrie.build(np.array([[2, 1]]), (3, 3)), HISTORIES, beams=5, top_k=2)
    assert scorer.calls == []
    assert ranked.items.tolist() == [[0, -1]] * 3
    assert ranked.scores.tolist() == [[0, -np.inf]] * 3


def test_scores_are_renormalised_over_the_children_of_the_catalogue_and_a_filter_keeps_them():
    codes = np.array([[0, 0], [0, 2], [1, 1]])
    scorer = TableScorer([0.2, 0.3, 0.5], [0.1, 0.6, 0.3])
    trie = CodeTrie.build(codes, (3, 3))
    ranked = beam_search(scorer, trie, HISTORIES, beams=3, top_k=3)
    assert ranked.items.tolist() == [[2, 1, 0]] * 3
    np.testing.assert_allclose(np.exp(ranked.scores), [[0.6, 0.4 * 0.75, 0.4 * 0.25]] * 3, rtol=1e-5)
    filtered = beam_search(scorer, trie, HISTORIES, beams=3, top_k=3, allowed=np.array([True, False, True]))
    assert filtered.items.tolist() == [[2, 0, -1]] * 3
    np.testing.assert_array_equal(filtered.scores[:, :2], ranked.scores[:, [0, 2]])


@pytest.mark.parametrize("beams", [1, 2, 5, 9, 27])
def test_equal_scores_go_to_the_lower_code(beams):
    every = np.stack(np.unravel_index(np.arange(27), (3, 3, 3)), axis=1)
    shuffled = np.random.default_rng(1).permutation(27)
    trie = CodeTrie.build(every[shuffled], (3, 3, 3))
    ranked = beam_search(TableScorer(*[[1 / 3] * 3] * 3), trie, HISTORIES, beams=beams, top_k=beams)
    np.testing.assert_array_equal(shuffled[ranked.items], np.tile(np.arange(beams), (3, 1)))


def test_two_thousand_items_in_a_wide_beam_are_exact():
    random = np.random.default_rng(5)
    codes = np.unique(random.integers(0, 40, (2000, 3)), axis=0)[random.permutation(1900)]
    trie = CodeTrie.build(codes, (40, 40, 40))
    scores = exact_scores(HashScorer(trie.level_sizes), trie, HISTORIES)
    ranked = search(trie)
    assert (np.sort(ranked.items, axis=1) == np.arange(trie.n_items)).all()
    np.testing.assert_allclose(ranked.scores, np.take_along_axis(scores, ranked.items, axis=1), atol=1e-4)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-3)


def test_a_user_with_everything_excluded_gets_nothing_and_the_others_lose_nothing():
    trie = CodeTrie.build(np.array([[0, 0], [0, 1], [1, 0]]), (2, 2))
    excluded = np.array([[0, 1, 2], [-1, -1, -1], [1, -1, 1]])
    ranked = search(trie, excluded=excluded)
    assert ranked.items[0].tolist() == [-1, -1, -1]
    assert sorted(ranked.items[1].tolist()) == [0, 1, 2]
    assert sorted(ranked.items[2].tolist()) == [-1, 0, 2]
    nothing = search(trie, allowed=np.zeros(3, dtype=bool))
    assert (nothing.items == -1).all()


def test_a_token_of_probability_zero_harms_no_other_item():
    trie = CodeTrie.build(np.array([[0, 0], [0, 1], [0, 2], [1, 2]]), (2, 3))
    ranked = beam_search(TableScorer([0.6, 0.4], [0.75, 0.25, 0]), trie, HISTORIES, beams=4, top_k=4)
    assert ranked.items.tolist() == [[0, 3, 1, 2]] * 3
    np.testing.assert_allclose(np.exp(ranked.scores), [[0.45, 0.4, 0.15, 0]] * 3, rtol=1e-5)
    mixed = DenseTableScorer([0.25] * 4, [0.6, 0.4], [0.75, 0.25, 0])
    ranked = beam_search(mixed, trie, HISTORIES, beams=5, top_k=5, dense_weight=0.5)  # one more than there are
    assert ranked.items.tolist() == [[0, 3, 1, 2, -1]] * 3


def test_a_model_whose_scores_are_no_numbers_is_an_error():
    trie = CodeTrie.build(np.array([[0, 0], [1, 0], [1, 1]]), (2, 2))
    with pytest.raises(GenrecError, match="level 1: the model's logits are not numbers"):
        beam_search(TableScorer([0.5, 0.5], [np.nan, np.nan]), trie, HISTORIES, beams=3, top_k=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 2, "top_k": 3}, "top_k 3 is not from 1 to beams, 2"),
        ({"top_k": 0}, "top_k 0 is not from 1 to beams"),
        ({"allowed": np.array([1, 0])}, r"allowed is int64 \(2,\); give bool \(2,\)"),
        ({"allowed": np.ones(3, bool)}, r"allowed is bool \(3,\); give bool \(2,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_and_named(options, message):
    trie = CodeTrie.build(np.array([[0], [1]]), (2,))
    with pytest.raises(GenrecError, match=message):
        search(trie, **options)


def test_the_search_needs_no_torch():
    check = "import genrec_core.search.generative, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_the_unconstrained_search_finds_the_best_code_of_all():
    sizes = (3, 4, 2)
    every = np.stack(np.unravel_index(np.arange(24), sizes), axis=1)
    trie = CodeTrie.build(every, sizes)
    best = unconstrained_top1(HashScorer(sizes), HISTORIES, sizes, beams=24)
    np.testing.assert_array_equal(best, every[search(trie).items[:, 0]])
