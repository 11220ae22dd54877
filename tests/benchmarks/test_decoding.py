"""The decoding benchmark on a tiny exported model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from genrec_core.bundle.model_folder import CODES, ITEM_VECTORS
from genrec_core.data.histories import padded
from genrec_core.errors import GenrecError
from genrec_core.search.beams import CodeScorer
from genrec_core.tiger.model import TigerModel
from tests.benchmarks import decoding
from tests.benchmarks.decoding_peers import OriginalDecoding, UncachedDecoding

if TYPE_CHECKING:
    from tests.core.tiny_model import TinyModel


def test_every_beam_width_is_timed(tiny_model: "TinyModel") -> None:
    found = decoding.run(tiny_model.model_dir, tiny_model.checkpoint, beams=(20, 5), users=6, repeats=2)
    found = json.loads(json.dumps(found))
    assert list(found["users_per_second"]) == ["5", "20"]
    for rate in found["users_per_second"].values():
        assert rate["repeats"] == 2
        assert 0 < rate["least"] <= rate["median"] <= rate["most"]
    assert list(found["single_ms"]) == ["10"]  # the others are more than the 90 items
    assert all(found[name] > 0 for name in ("ratio_original", "ratio_generate"))
    assert list(found["ratio_uncached"]) == ["10"]
    assert found["ratio_uncached"]["10"] > 0
    assert 0 < found["gflop_a_user"]["5"] < found["gflop_a_user"]["20"]
    assert set(found["limit_share"]) == {"5", "20"}
    assert 0 < found["peak_mb"]["5"] <= found["peak_mb"]["20"]
    assert (found["items"], found["users"]) == (90, 6)


def test_the_peers_rank_as_the_model_does_where_their_beams_hold_everything(tiny_model: "TinyModel") -> None:
    model, recommender = TigerModel.from_pretrained(tiny_model.checkpoint), tiny_model.torch_recommender()
    items = np.load(tiny_model.model_dir / ITEM_VECTORS)
    codes = np.load(tiny_model.model_dir / CODES)
    peers = [OriginalDecoding(model, items, codes), UncachedDecoding(model, items, recommender.trie)]
    log_probs = exact_log_probs(recommender.scorer, codes, np.array([3, 70, 5]))
    for peer in peers:
        ranked = peer.rank(np.array([3, 70, 5]), beams=90, top_k=5)
        assert ranked == np.argsort(-log_probs, kind="stable")[:5].tolist()


def exact_log_probs(scorer: CodeScorer, codes: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Log-probability of every item's code over the whole vocabulary, each item a beam of its own."""
    session, total = scorer.start(padded([history.astype(np.int32)], 12)), np.zeros(len(codes))
    each, only = np.arange(len(codes)), np.zeros(len(codes), dtype=np.int64)
    logits = session.first().repeat(len(codes), axis=0)
    for level in range(codes.shape[1]):
        if level:
            logits = session.advance(codes[:, level - 1].astype(np.int64), each if level > 1 else only, only)
        log_probs = logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)
        total += log_probs[each, codes[:, level]]
    return total


def test_without_a_model_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_STORAGE", str(tmp_path))
    with pytest.raises(GenrecError, match="onnx_encoder was never built"):
        decoding.run()
