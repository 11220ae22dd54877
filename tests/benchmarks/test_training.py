"""The training benchmark on a few users."""

import json

import numpy as np
import pytest

from genrec_core.errors import GenrecError
from genrec_core.settings import SemanticIdSettings
from tests.benchmarks import original, training
from tests.benchmarks.workload import random_histories


def test_a_short_training_is_timed() -> None:
    found = json.loads(json.dumps(training.run("sample", users=40, items=60, repeats=2)))
    rate = found["targets_per_second"]
    assert rate["repeats"] == 2
    assert 0 < rate["least"] <= rate["median"] <= rate["most"]
    assert found["targets"] >= 40 * 2
    assert found["parameters"] > 10_000
    assert found["peak_mb"] > 0
    assert found["ratio_original"] > 1
    assert 0 < found["limit_share"] < 1
    assert list(found)[:3] == ["targets_per_s", "ratio_original", "limit_share"]


def test_the_original_way_sees_all_tokens_of_a_history_but_the_target() -> None:
    histories = random_histories(5, 60, seed=0)
    codes, sizes = training.random_codes(SemanticIdSettings(levels=2, codebook_size=8), items=60, seed=0)
    tokens = codes + 1 + np.cumsum(sizes) - np.asarray(sizes)
    batch = original.batch_of(histories, tokens, range(5), max_history=6)
    for user in range(5):
        history = histories.of(user)
        assert batch["input_ids"][user][batch["attention_mask"][user] == 1].tolist() == (
            tokens[history[-7:-1]].ravel().tolist()
        )
        assert batch["labels"][user].tolist() == tokens[history[-1]].tolist()


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(GenrecError, match="preset huge: no such preset; choose one of sample"):
        training.run("huge")


def test_random_codes_are_distinct_and_within_their_levels() -> None:
    codes, sizes = training.random_codes(SemanticIdSettings(levels=2, codebook_size=4), items=100, seed=0)
    assert sizes == (4, 4, training.SUFFIXES)
    assert codes.shape == (100, 3)
    assert len(np.unique(codes, axis=0)) == 100
    assert (codes >= 0).all()
    assert (codes < sizes).all()


def test_more_items_than_codes_are_refused() -> None:
    with pytest.raises(GenrecError, match="too few for 1000 random items"):
        training.random_codes(SemanticIdSettings(levels=1, codebook_size=4), items=1000, seed=0)
