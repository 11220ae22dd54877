"""The search against exact scoring, and the rules that no result may break."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_core.data.histories import HistoryBatch, padded
from genrec_core.errors import GenrecError
from genrec_core.tiger.search import Ranked, beam_search, exact_scores, unconstrained_top1
from genrec_core.tiger.trie import CodeTrie


class HashScorer:
    """Log-probabilities that depend on the history and the whole prefix, so that a wrong parent shows."""

    def __init__(self, level_sizes: tuple[int, ...]) -> None:
        self.level_sizes = level_sizes
        self.calls: list[tuple[int, int]] = []

    def start(self, histories: HistoryBatch) -> "HashSession":
        keys = [row[:length].tobytes() for row, length in zip(histories.rows, histories.lengths, strict=True)]
        return HashSession(self, keys)


class HashSession:
    def __init__(self, scorer: HashScorer, keys: list[bytes]) -> None:
        self.scorer, self.prefixes, self.level = scorer, [[key] for key in keys], 0

    def advance(self, tokens: np.ndarray | None, parents: np.ndarray | None) -> np.ndarray:
        assert (tokens is None) == (parents is None) == (self.level == 0)
        if tokens is not None and parents is not None:
            assert tokens.shape == parents.shape
            assert ((tokens >= 0) & (tokens < self.scorer.level_sizes[self.level - 1])).all()
            self.prefixes = [
                [old[parent] + bytes([token]) for token, parent in zip(row, sources, strict=True)]
                for old, row, sources in zip(self.prefixes, tokens.tolist(), parents.tolist(), strict=True)
            ]
        size = self.scorer.level_sizes[self.level]
        self.level += 1
        self.scorer.calls.append((len(self.prefixes), len(self.prefixes[0])))
        return np.stack([np.stack([self._log_probs(prefix, size) for prefix in row]) for row in self.prefixes])

    @staticmethod
    def _log_probs(prefix: bytes, size: int) -> np.ndarray:
        logits = np.random.default_rng(zlib.crc32(prefix)).normal(size=size).astype(np.float32) * 2
        return logits - np.logaddexp.reduce(logits)


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


@settings(max_examples=80, deadline=None)
@given(catalogues(), st.data())
def test_a_beam_as_wide_as_the_catalogue_is_exact_under_any_filter(catalogue, data):
    trie = CodeTrie.build(*catalogue)
    allowed, excluded = masks(data, trie.n_items)
    ranked = search(trie, allowed=allowed, excluded=excluded)
    scores = exact_scores(HashScorer(trie.level_sizes), trie, HISTORIES)
    for user in range(3):
        left = [row for row in range(trie.n_items) if allowed[row] and row not in excluded[user]]
        wanted = sorted(left, key=lambda row: -scores[user, row])
        got = [row for row in ranked.items[user].tolist() if row >= 0]
        assert sorted(got) == sorted(wanted)
        np.testing.assert_allclose(ranked.scores[user, : len(got)], scores[user, wanted], atol=1e-5)


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
    assert scorer.calls == [(3, 1), (3, 1), (3, 1)]  # only prefix 2, though its next level has one child


def test_more_items_than_beams_is_an_error():
    trie = CodeTrie.build(np.array([[0], [1]]), (2,))
    with pytest.raises(GenrecError, match="top_k 3 is larger than beams 2"):
        search(trie, beams=2, top_k=3)


def test_the_unconstrained_search_finds_the_best_code_of_all():
    sizes = (3, 4, 2)
    every = np.stack(np.unravel_index(np.arange(24), sizes), axis=1)
    trie = CodeTrie.build(every, sizes)
    best = unconstrained_top1(HashScorer(sizes), HISTORIES, sizes, beams=24)
    np.testing.assert_array_equal(best, every[search(trie).items[:, 0]])
