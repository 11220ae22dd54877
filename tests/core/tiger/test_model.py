"""The training pass never looks ahead, neither over the history nor over the levels."""

from pathlib import Path

import pytest
import torch

from genrec_core.errors import GenrecError
from genrec_core.tiger.model import Dropout, TigerConfig, TigerModel
from tests.core.tiger import test_decoding
from tests.core.tiger.test_decoding import BATCH, TIME, logits_of


@pytest.fixture
def model() -> TigerModel:
    return test_decoding.build(decoder_layers=2, content_views=1, id_views=0)


@pytest.fixture
def batch() -> tuple[torch.Tensor, ...]:
    return test_decoding.batch()


@torch.no_grad()
def test_a_position_sees_nothing_that_comes_after_it(model, batch):
    rows, codes, vectors, targets = batch
    before = logits_of(model, rows, codes, vectors, targets)
    changed_codes, changed_vectors = codes.clone(), vectors.clone()
    changed_codes[:, 4:] = (changed_codes[:, 4:] + 1) % 4
    changed_vectors[:, 4:] += 1
    after = logits_of(model, rows, changed_codes, changed_vectors, targets)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(old[:, :4], new[:, :4])
        assert not torch.allclose(old[:, 4:], new[:, 4:])


@torch.no_grad()
def test_a_level_sees_only_the_levels_before_it(model, batch):
    rows, codes, vectors, targets = batch
    before = logits_of(model, rows, codes, vectors, targets)
    changed = targets.clone()
    changed[..., 2] = (changed[..., 2] + 1) % 4
    after = logits_of(model, rows, codes, vectors, changed)
    for level in range(3):
        torch.testing.assert_close(before[level], after[level])
    assert not torch.allclose(before[3], after[3])


@torch.no_grad()
def test_items_beyond_the_known_ones_have_no_vector_of_their_own(model, batch):
    _, codes, vectors, _ = batch
    known, unknown, other = (model.item_encoder(torch.full((BATCH, TIME), row), codes, vectors) for row in (3, 20, 29))
    assert torch.equal(unknown, other)
    assert not torch.allclose(known, unknown)


def test_a_saved_model_comes_back_the_same(model, batch, tmp_path: Path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again = TigerModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        for old, new in zip(logits_of(model, *batch), logits_of(again, *batch), strict=True):
            assert torch.equal(old, new)


def test_heads_must_divide_the_width():
    with pytest.raises(GenrecError, match="d_model 30 is not a multiple of heads 4"):
        TigerConfig(d_model=30, heads=4)


def test_dropout_zeroes_its_share_keeps_the_mean_and_repeats_with_the_seed():
    x, dropout = torch.ones(1001, 301), Dropout(0.2).train()
    torch.manual_seed(3)
    first = dropout(x)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(x))
    assert (first == 0).float().mean().item() == pytest.approx(0.2, abs=0.005)
    assert first.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(dropout.eval()(x), x)


@torch.no_grad()
def test_items_of_a_large_catalogue_share_what_is_learned_of_their_codes():
    sizes = {"level_sizes": [8, 8, 8, 4], "d_model": 32, "heads": 4, "d_ff": 64}
    model = TigerModel(TigerConfig(**sizes, code_rows=64, id_views=1))
    (identity,) = model.item_encoder.identities
    codes = torch.tensor([[1, 2, 3, 0], [1, 2, 3, 1], [1, 2, 0, 0], [3, 2, 3, 0]])
    same, other_suffix, near, far = identity(torch.arange(4), codes)
    torch.testing.assert_close(same, other_suffix)
    assert not torch.allclose(same, near)
    assert (near - same).square().sum() < (far - same).square().sum()
