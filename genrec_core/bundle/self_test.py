"""Stored answers of a model: whether its graphs compute on this processor what they computed at the export.

onnxruntime multiplies int8 matrices by instructions that differ between processors. Some of them saturate: they give
another product, without an error. So the export stores the logits of a few histories, and each opening computes them
again.
"""

from pathlib import Path
from typing import Any

import numpy as np

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.bundle.onnx_scorer import OnnxScorer
from genrec_core.data.histories import padded
from genrec_core.graphs import SELF_TEST, read_self_test, require_same_answers

_HISTORIES, _HISTORY_ITEMS, _SCORED_ITEMS = 4, 5, 256


def write_self_test(path: Path) -> None:
    """Store logits of the model in the folder ``path``, before the folder's manifest is written."""
    folder = ModelFolder(path)
    items, random = folder.items(), np.random.default_rng(0)
    shapes = ((_HISTORIES, _HISTORY_ITEMS), _HISTORIES, _SCORED_ITEMS)
    rows, followers, scored = (random.integers(len(items.codes), size=shape) for shape in shapes)
    inputs: dict[str, Any] = {"rows": rows, "targets": items.codes[followers].astype(np.int64), "items": scored}
    np.savez(path / SELF_TEST, answers=_logits(OnnxScorer(folder, items), **inputs), **inputs)


def require_self_test(path: Path, scorer: OnnxScorer) -> None:
    """Compare the logits of ``scorer`` with those stored in its folder ``path``. Added items do not matter."""
    inputs, answers = read_self_test(path, ("rows", "targets", "items"))
    require_same_answers(path, answers, _logits(scorer, **inputs))


def _logits(scorer: OnnxScorer, rows: np.ndarray, targets: np.ndarray, items: np.ndarray) -> np.ndarray:
    """All logits that the graphs give for some histories, float32 [n].

    Text neighbours are left out, as new items may take a place among them.

    Args:
        scorer: the model.
        rows: catalogue rows of the histories, int64 [batch, items].
        targets: the code that follows each history, int64 [batch, depth].
        items: catalogue rows that the dense head scores, int64 [items].
    """
    users = np.arange(len(rows))
    session = scorer.start(padded(list(rows), scorer.settings.max_history))
    logits = [session.first()]
    logits += [session.advance(targets[:, level], users, users) for level in range(len(scorer.steps))]
    logits.append(scorer.keys_product(session.query)[:, items])
    return np.concatenate([level.ravel() for level in logits])
