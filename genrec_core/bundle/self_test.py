"""Stored answers of a model: whether its graphs compute on this processor what they computed at the export.

onnxruntime multiplies int8 matrices by instructions that differ between processors. Some of them saturate: they give
another product, without an error. So the export stores what the graphs say of a few histories, and every opening asks
the graphs again.
"""

from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.bundle.onnx_scorer import OnnxScorer
from genrec_core.data.histories import padded
from genrec_core.graphs import SELF_TEST, read_self_test, require_same_answers

_HISTORIES, _HISTORY_ITEMS, _SCORED_ITEMS = 4, 5, 256
_ASKED = ("rows", "targets", "items")


def write_self_test(folder: Path, scorer: OnnxScorer, codes: np.ndarray) -> None:
    """Store answers of the model, before the manifest of its folder is written.

    Args:
        folder: the model folder.
        scorer: the model in ``folder``.
        codes: semantic IDs with suffix by catalogue row, int [n_items, depth].
    """
    shapes = ((_HISTORIES, _HISTORY_ITEMS), _HISTORIES, _SCORED_ITEMS)
    random = np.random.default_rng(0)
    rows, followers, items = (random.integers(len(codes), size=shape) for shape in shapes)
    asked: dict[str, Any] = dict(zip(_ASKED, (rows, codes[followers].astype(np.int64), items), strict=True))
    np.savez(folder / SELF_TEST, **asked, answers=_answers(scorer, **asked))


def require_self_test(folder: Path, scorer: OnnxScorer) -> None:
    """Compare what the model says now with the stored answers.

    Args:
        folder: the model folder. Items may have been added to it since its export.
        scorer: the model in ``folder``.

    Raises:
        GenrecError: an answer differs by more than ``LARGEST_ERROR`` of the range of all, or none can be read.
    """
    asked, answers = read_self_test(folder, _ASKED)
    require_same_answers(folder, answers, _answers(scorer, **asked))


def _answers(scorer: OnnxScorer, rows: np.ndarray, targets: np.ndarray, items: np.ndarray) -> np.ndarray:
    """All that the graphs say of some histories, float32 [n].

    Text neighbours are left out, as new items may take a place among them.

    Args:
        scorer: the model.
        rows: catalogue rows of the histories, int64 [batch, items].
        targets: the code that each history is followed by, int64 [batch, depth].
        items: catalogue rows that the dense head scores, int64 [items].
    """
    users = np.arange(len(rows))
    session = scorer.start(padded(list(rows), scorer.settings.max_history))
    logits = [session.first()]
    logits += [session.advance(targets[:, level], users, users) for level in range(len(scorer.steps))]
    logits.append(scorer.keys_product(session.query)[:, items])
    return np.concatenate([level.ravel() for level in logits])
