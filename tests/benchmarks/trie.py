"""What the trie costs as the catalogue grows: bytes an item, seconds to build, and the time of a step of the search.

A step is what :func:`~genrec_core.search.generative.beam_search` does for a batch between two calls of the model:
gather the children of all beams, renormalise their scores, mask, keep the best. It is timed in the real search, whose
model is here a buffer of random numbers, from where one call returns to where the next begins, and only where all beams
were asked about.

Codes are made so that the beams of both catalogues have equally many children: every prefix goes on with ten tokens of
256, drawn for that prefix, so that ten times the items need one more level. Codes of three levels of 256, drawn evenly,
are measured beside them: there more items mean more children a beam, and so more work.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genrec_core.data.histories import HistoryBatch
from genrec_core.errors import GenrecError
from genrec_core.search.generative import beam_search
from genrec_core.search.trie import CodeTrie
from tests.benchmarks.machine import describe, peak_mb, spread

VOCABULARY, BRANCHING, RANDOM_LEVELS = 256, 10, 3
_STRETCHES = 8  # the random scores are as many times those of one call; every call reads another stretch of them


def run(
    items: Sequence[int] = (10_000, 10_000_000), beams: int = 100, users: int = 64, repeats: int = 21
) -> dict[str, Any]:
    """Build tries of each size and time the search's steps in them, in turns, after one search of each that warms up.

    Args:
        items: sizes of the catalogues, powers of ten; the last is compared with the first.
        beams: beams a user.
        users: users of a batch.
        repeats: searches that count.

    Returns:
        Of the last catalogue ``bytes_per_item`` and ``build_s``, and ``step_ratio``: its step over the first one's,
        median of the repeats; then the figures of both kinds of codes by catalogue size, ``peak_mb``, machine, commit.

    Raises:
        GenrecError: a size is no power of ten, or too small for a search with so many beams.
    """
    equal = _measure(branching_codes, items, beams, users, repeats)
    headline = equal["by_items"][str(items[-1])]
    return {
        "bytes_per_item": headline["bytes_per_item"],
        "build_s": headline["build_s"],
        "step_ratio": equal["step_ratio"]["median"],
        "benchmark": "trie",
        "ten_children_a_prefix": equal,
        "random_3x256": _measure(random_codes, items, beams, users, repeats),
        "beams": beams,
        "users": users,
        "peak_mb": round(peak_mb(), 1),
        **describe(),
    }


def branching_codes(items: int) -> np.ndarray:
    """Codes uint8 [items, levels] in random order, every prefix of which goes on with ten tokens of 256.

    The tokens of a prefix begin at a random one and follow at a random odd distance, so that no two are equal.

    Raises:
        GenrecError: ``items`` is no power of ten.
    """
    levels = len(str(items)) - 1
    if levels < 1 or BRANCHING**levels != items:
        raise GenrecError(f"{items} items: give a power of {BRANCHING}, so that every prefix has as many children")
    random = np.random.default_rng(items)
    codes = np.empty((items, levels), dtype=np.uint8)
    for level in range(levels):
        prefixes = BRANCHING**level
        first = random.integers(VOCABULARY, size=(prefixes, 1))
        distance = 2 * random.integers(VOCABULARY // 2, size=(prefixes, 1)) + 1
        tokens = (first + distance * np.arange(BRANCHING)) % VOCABULARY
        codes[:, level] = np.repeat(tokens.astype(np.uint8).ravel(), items // (prefixes * BRANCHING))
    return codes[random.permutation(items)]


def random_codes(items: int) -> np.ndarray:
    """Distinct codes uint8 [items, 3] of 256 tokens a level, drawn evenly."""
    drawn = np.random.default_rng(items).choice(VOCABULARY**RANDOM_LEVELS, items, replace=False)
    return np.stack([drawn >> 16, (drawn >> 8) & 255, drawn & 255], axis=1).astype(np.uint8)


def trie_bytes(trie: CodeTrie) -> int:
    """Bytes of all arrays; the last ``child_start`` is counted once, as part of ``first_leaf``."""
    arrays = (*trie.tokens, *trie.child_start[:-1], *trie.first_leaf, trie.leaf_row, trie.row_leaf)
    return sum(array.nbytes for array in arrays)


def step_seconds(scorer: "RandomScorer", trie: CodeTrie, beams: int, users: int) -> float:
    """Time of a step that had all beams scored, in one search.

    The last step also sorts the items that are found. It counts as much as the mean of the others, so that a search of
    few levels is comparable with one of many.

    Raises:
        GenrecError: there was no such step.
    """
    histories = HistoryBatch(np.zeros((users, 1), dtype=np.int32), np.ones(users, dtype=np.int64))
    beam_search(scorer, trie, histories, beams=beams, top_k=beams)
    session, end = scorer.session, time.perf_counter()
    steps = np.array([*session.began[1:], end]) - session.ended
    full = np.array(session.widths) == beams
    kinds = [part[kept].mean() for part, kept in ((steps[:-1], full[:-1]), (steps[-1:], full[-1:])) if kept.any()]
    if not kinds:
        raise GenrecError(f"{trie.n_items} items are too few to fill {beams} beams; use more items or fewer beams")
    return float(np.mean(kinds))


def _measure(
    make: Callable[[int], np.ndarray], items: Sequence[int], beams: int, users: int, repeats: int
) -> dict[str, Any]:
    """Figures by catalogue size, and the ratio of the last one's step to the first one's, search by search."""
    built = [_build(make(size)) for size in items]
    scorer = RandomScorer(_STRETCHES * users * beams * VOCABULARY)
    times = [[step_seconds(scorer, trie, beams, users) for trie, _ in built] for _ in range(repeats + 1)][1:]
    by_items = {
        str(trie.n_items): {
            "nodes": [trie.nodes(depth) for depth in range(trie.depth + 1)],
            "bytes_per_item": round(trie_bytes(trie) / trie.n_items, 2),
            "build_s": round(seconds, 3),
            "step_ms": spread([1000 * step for step in steps]),
        }
        for (trie, seconds), steps in zip(built, zip(*times, strict=True), strict=True)
    }
    return {"step_ratio": spread([steps[-1] / steps[0] for steps in times]), "by_items": by_items}


def _build(codes: np.ndarray) -> tuple[CodeTrie, float]:
    """The trie, and how long it took."""
    began = time.perf_counter()
    trie = CodeTrie.build(codes, (VOCABULARY,) * codes.shape[1])
    return trie, time.perf_counter() - began


class RandomScorer:
    """A ``CodeScorer`` that answers every call with other random scores, at no cost.

    Args:
        scores: how many it keeps; more than one call reads.
    """

    session: "TimedSession"

    def __init__(self, scores: int) -> None:
        self._random = np.random.default_rng(0)
        self._scores = self._random.random(scores, dtype=np.float32)
        self._scores *= -10

    def start(self, histories: HistoryBatch) -> "TimedSession":
        """Begin a batch; what the users bought plays no part."""
        self.session = TimedSession(self, len(histories.lengths))
        return self.session

    def read(self, beams: int) -> np.ndarray:
        """Scores float32 [beams, 256] from a random place."""
        size = beams * VOCABULARY
        first = int(self._random.integers(len(self._scores) - size))
        return self._scores[first : first + size].reshape(beams, VOCABULARY)


class TimedSession:
    """One search: when each call of the model began and ended, and for how many beams of a user at most."""

    def __init__(self, scorer: RandomScorer, batch: int) -> None:
        self._scorer, self._batch = scorer, batch
        self.began: list[float] = []
        self.ended: list[float] = []
        self.widths: list[int] = []

    def matches(self, trie: CodeTrie) -> None:
        """Every item is scored."""

    def lifted(self) -> None:
        """Nothing is lifted."""

    def first(self) -> np.ndarray:
        """Scores of level 0; see ``ScorerSession``."""
        return self._answered(np.arange(self._batch))

    def advance(self, tokens: np.ndarray, parents: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Scores of the next level; see ``ScorerSession``."""
        return self._answered(users)

    def _answered(self, users: np.ndarray) -> np.ndarray:
        self.began.append(time.perf_counter())
        self.widths.append(int(np.bincount(users).max()))
        scores = self._scorer.read(len(users))
        self.ended.append(time.perf_counter())
        return scores

    def item_logits(self) -> np.ndarray:
        """Never asked for: the search is by generating alone."""
        raise GenrecError("the benchmark of the trie has no dense head")
