"""Texts embedded by several threads of this process: the same vectors, in order, also beside another busy process."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec_core.embedding import text as embedding_text
from genrec_core.embedding.text import embed_texts
from genrec_core.engines.engine import Engine
from genrec_core.settings import EmbeddingSettings

TEXTS = [f"Title: Nail Lacquer {'shiny ' * (number % 7)}{number}; Brand: OPI;" for number in range(48)]
SETTINGS = EmbeddingSettings(batch_size=4)


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_two_threads_give_the_vectors_of_one() -> None:
    found = embed_texts(TEXTS, SETTINGS)

    np.testing.assert_array_equal(found, embed_texts(TEXTS, SETTINGS))
    np.testing.assert_allclose(found, embed_texts(TEXTS, SETTINGS, engine=Engine()), atol=1e-6)
    assert torch.get_num_threads() == 2


def test_each_batch_is_computed_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    encode, seen = embedding_text.encode_batch, []
    both = threading.Barrier(2, timeout=60)

    def watched(settings: EmbeddingSettings, texts: list[str]) -> np.ndarray:
        seen.append((threading.get_ident(), torch.get_num_threads()))
        both.wait()  # passes only where two batches are under way at once
        return encode(settings, texts)

    monkeypatch.setattr(embedding_text, "encode_batch", watched)
    embed_texts(TEXTS[:8], SETTINGS)

    assert len({thread for thread, _ in seen}) == 2
    assert {operator_threads for _, operator_threads in seen} == {1}


def test_a_batch_that_fails_ends_the_others_and_leaves_the_threads_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(settings: EmbeddingSettings, texts: list[str]) -> np.ndarray:
        raise RuntimeError("no memory")

    monkeypatch.setattr(embedding_text, "encode_batch", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        embed_texts(TEXTS, SETTINGS)
    assert torch.get_num_threads() == 2


@pytest.mark.slow
def test_a_busy_core_beside_it_makes_it_little_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.delitem(sys.modules, "embedding_beside_a_busy_core", raising=False)
    from embedding_beside_a_busy_core import measure

    found = measure(TEXTS * 8, turns=3)

    assert found["a_batch_a_thread"]["ratio"] < 3  # 2.2 with slack; 6 was seen where threads share a batch
    assert found["largest_difference"] < 1e-6
