"""Training batches: users of similar length together, sized in targets, cut the same way for any process count."""

from dataclasses import dataclass

import numpy as np

from genrec_core.data.histories import Histories

_LENGTH_NOISE = 0.15  # share by which lengths are blurred before sorting, so that batches differ between epochs


@dataclass(frozen=True)
class Sequences:
    """Pieces of histories, each at most ``max_history + 1`` items, so that each target is trained exactly once."""

    rows: np.ndarray  # of the catalogue, of all histories, int32 [n]
    starts: np.ndarray  # first index of each piece in ``rows``, int64 [n_pieces]
    lengths: np.ndarray  # items a piece, at least two, int64 [n_pieces]

    @classmethod
    def cut(cls, histories: Histories, max_history: int) -> "Sequences":
        """Cut histories into pieces that overlap by one item."""
        starts, lengths = [], []
        for first, length in zip(histories.offsets[:-1].tolist(), np.diff(histories.offsets).tolist(), strict=True):
            for begin in range(0, length - 1, max_history):
                starts.append(first + begin)
                lengths.append(min(max_history + 1, length - begin))
        return cls(histories.rows, np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64))

    @property
    def targets(self) -> int:
        """Next-item targets in all pieces."""
        return int((self.lengths - 1).sum())

    def padded(self, pieces: np.ndarray) -> np.ndarray:
        """Rows int64 [n_pieces, longest], -1 on the right."""
        steps = np.arange(self.lengths[pieces].max())
        inside = steps < self.lengths[pieces][:, None]
        index = np.where(inside, self.starts[pieces][:, None] + steps, 0)
        return np.where(inside, self.rows[index], -1).astype(np.int64)


def drawn_targets(rows: np.ndarray, share: float, window: int, random: np.random.Generator) -> np.ndarray:
    """The item to predict at each position: the next one or, now and then, one soon after it.

    Purchases of one day have no order to learn, and a later purchase says what the user wants too. Drawn targets keep
    the model from over-fitting to the exact next item and raise recall at every depth.

    Source: the dense all-action loss of Pancha et al. 2022, "PinnerFormer".

    Args:
        rows: pieces of histories int64 [n_pieces, T + 1], -1 on the right.
        share: probability that a target is drawn from later items.
        window: largest distance of a drawn target from the next item; all distances are equally likely. A distance that
            leads beyond the piece gives the piece's last item.

    Returns:
        int64 [n_pieces, T], -1 where ``rows[:, 1:]`` is.
    """
    following = rows[:, 1:]
    skipped = random.integers(1, window, following.shape, endpoint=True) * (random.random(following.shape) < share)
    newest = (following >= 0).sum(axis=1, keepdims=True) - 1
    position = np.arange(following.shape[1])
    drawn = np.take_along_axis(following, np.minimum(position + skipped, newest.clip(min=0)), axis=1)
    return np.where(following >= 0, drawn, -1)


def epoch_batches(sequences: Sequences, batch_targets: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Piece numbers of each batch of an epoch, in training order; the same for the same seed and epoch."""
    random = np.random.default_rng([seed, epoch])
    blurred = sequences.lengths * random.uniform(1 - _LENGTH_NOISE, 1 + _LENGTH_NOISE, len(sequences.lengths))
    order = np.argsort(blurred, kind="stable")
    bounds = np.cumsum(sequences.lengths[order] - 1) // batch_targets
    batches = np.split(order, np.flatnonzero(np.diff(bounds)) + 1)
    return [batches[number] for number in random.permutation(len(batches))]
