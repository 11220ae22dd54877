"""Scores that a checkpoint gave when it was trained, kept beside it: a reload elsewhere must give them again."""

from pathlib import Path

import numpy as np

from genrec_core.data.histories import padded
from genrec_core.tiger.scorer import TorchScorer
from genrec_core.tiger.training import TrainingData

PROBE = "probe.npz"
_USERS = 32


def write_probe(checkpoint: Path, data: TrainingData) -> None:
    """Store the first decoding step's scores of a few users in ``checkpoint``."""
    np.savez(checkpoint / PROBE, scores=_scores(checkpoint, data))


def probe_difference(checkpoint: Path, data: TrainingData) -> float:
    """Largest absolute difference between the stored scores and those of the reloaded checkpoint."""
    with np.load(checkpoint / PROBE, allow_pickle=False) as stored:
        return float(np.abs(stored["scores"] - _scores(checkpoint, data)).max())


def _scores(checkpoint: Path, data: TrainingData) -> np.ndarray:
    """Log-probabilities of the first level, float32 [users, level size]."""
    scorer = TorchScorer.from_folder(checkpoint, data.codes, data.vectors)
    users = [user for user in range(len(data.histories)) if len(data.histories.of(user))][:_USERS]
    histories = padded([data.histories.of(user) for user in users], scorer.model.config.max_history)
    return scorer.start(histories).first()
