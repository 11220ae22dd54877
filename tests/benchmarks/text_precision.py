"""How fast texts are embedded with weights of 8 bits beside torch, and how near the vectors are."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from genrec_core.embedding.item_embeddings import l2_normalized
from genrec_core.embedding.text import embed_texts
from genrec_core.settings import EmbeddingSettings
from tests.benchmarks.embedding_beside_a_busy_core import benchmark_texts
from tests.benchmarks.machine import describe, spread

_NEAREST = 10
_FORMS = {"torch": EmbeddingSettings(), "int8": EmbeddingSettings(int8=True)}


def run(texts: int = 2000, turns: int = 3) -> dict[str, Any]:
    """Embed the texts in both ways, in turns. They are Amazon Beauty's where GENREC_TEST_BEAUTY names its folder.

    Args:
        texts: number of texts.
        turns: readings of each.

    Returns:
        By form ``texts_a_second`` once the model is loaded, ``over_torch``, ``load_s`` of the last reading, the mean
        and the least ``cosine`` with torch's vectors, and ``nearest_that_stay``: the share of the ten nearest texts.
    """
    read, rates = benchmark_texts(texts), {name: list[float]() for name in _FORMS}
    loads, vectors = dict[str, float](), dict[str, np.ndarray]()
    for _ in range(turns):
        for name, settings in _FORMS.items():
            rate, loads[name], vectors[name] = _reading(read, settings)
            rates[name].append(rate)
    exact = vectors["torch"]
    by_form = {
        name: {
            "texts_a_second": spread(rates[name]),
            "over_torch": round(float(np.median(rates[name]) / np.median(rates["torch"])), 2),
            "load_s": round(loads[name], 1),
            **_agreement(vectors[name], exact),
        }
        for name in _FORMS
    }
    return {"benchmark": "embed", "texts": len(read), "by_form": by_form, **describe()}


def _reading(texts: Sequence[str], settings: EmbeddingSettings) -> tuple[float, float, np.ndarray]:
    """Texts a second after the first batch, seconds until then, and the vectors."""
    began, marks = time.perf_counter(), list[tuple[int, float]]()
    vectors = embed_texts(texts, settings, lambda done, total: marks.append((done, time.perf_counter())))
    (first, start), (last, end) = marks[0], marks[-1]
    return (last - first) / (end - start), start - began, l2_normalized(vectors)


def _agreement(vectors: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    cosines = (vectors * exact).sum(axis=1)
    shares = [np.isin(_nearest(vectors, row), _nearest(exact, row)).mean() for row in range(len(exact))]
    return {
        "cosine": round(float(cosines.mean()), 4),
        "least_cosine": round(float(cosines.min()), 4),
        "nearest_that_stay": round(float(np.mean(shares)), 4),
    }


def _nearest(vectors: np.ndarray, row: int) -> np.ndarray:
    similarity = vectors @ vectors[row]
    similarity[row] = -np.inf
    return np.argpartition(similarity, -_NEAREST)[-_NEAREST:]
