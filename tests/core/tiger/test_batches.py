"""Every next-item target is trained once an epoch, whatever the batch size or the process count."""

import numpy as np
import pytest

from genrec_core.data.histories import Histories
from genrec_core.tiger.training import Sequences, drawn_targets, epoch_batches


@pytest.fixture
def sequences() -> Sequences:
    lengths = np.random.default_rng(0).integers(0, 30, 200)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    histories = Histories([str(user) for user in range(200)], np.arange(offsets[-1], dtype=np.int32), offsets)
    return Sequences.cut(histories, max_history=8)


def trained_pairs(sequences: Sequences, batches: list[np.ndarray]) -> list[tuple[int, int]]:
    """(item, next item) of every target in the batches."""
    pairs = []
    for batch in batches:
        rows = sequences.padded(batch)
        inside = rows[:, 1:] >= 0
        pairs += list(zip(rows[:, :-1][inside].tolist(), rows[:, 1:][inside].tolist(), strict=True))
    return sorted(pairs)


def test_an_epoch_holds_every_target_once_however_long_the_history(sequences):
    pairs = trained_pairs(sequences, epoch_batches(sequences, batch_targets=64, seed=1, epoch=0))
    lengths = np.random.default_rng(0).integers(0, 30, 200)
    assert len(pairs) == len(set(pairs)) == sequences.targets == np.maximum(lengths - 1, 0).sum()
    assert all(after == before + 1 for before, after in pairs)
    assert sequences.lengths.max() == 9


def test_batches_repeat_with_the_seed_and_differ_between_epochs(sequences):
    first, again, other = (epoch_batches(sequences, 64, seed=1, epoch=epoch) for epoch in (0, 0, 1))
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in again]
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in other]


def test_a_batch_holds_about_as_many_targets_as_asked_and_similar_lengths(sequences):
    batches = epoch_batches(sequences, batch_targets=64, seed=1, epoch=0)
    targets = [int((sequences.lengths[batch] - 1).sum()) for batch in batches]
    assert max(targets) <= 64 + 8
    assert sum(targets) / len(targets) > 50


def test_without_a_share_of_later_items_every_target_is_the_next_item(sequences):
    rows = sequences.padded(np.arange(len(sequences.lengths)))
    assert np.array_equal(drawn_targets(rows, 0.0, 3, np.random.default_rng(0)), rows[:, 1:])


def test_a_target_is_the_next_item_or_within_the_window_after_it_and_never_beyond_the_piece(sequences):
    rows = sequences.padded(np.arange(len(sequences.lengths)))
    targets = drawn_targets(rows, 0.5, 3, np.random.default_rng(0))
    inside = rows[:, 1:] >= 0
    assert np.array_equal(targets >= 0, inside)
    skipped = (targets - rows[:, 1:])[inside]  # the items of a piece are consecutive numbers
    assert set(skipped.tolist()) == {0, 1, 2, 3}
    assert (targets <= rows.max(axis=1, keepdims=True)).all()
    whole = drawn_targets(np.arange(10_001)[None], 0.5, 3, np.random.default_rng(0)) - np.arange(1, 10_001)
    assert (whole > 0).mean() == pytest.approx(0.5, abs=0.02)
    assert (whole == 3).mean() == pytest.approx(0.5 / 3, abs=0.02)
