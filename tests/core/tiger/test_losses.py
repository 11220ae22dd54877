"""The losses against plain formulas on a tiny catalogue."""

import numpy as np
import pytest
import torch

from genrec_core.errors import GenrecError
from genrec_core.search.trie import CodeTrie
from genrec_core.settings import TrainingSettings
from genrec_core.tiger.losses import NextItemLoss, SubtreeShares
from genrec_core.tiger.model import TigerConfig, TigerModel
from tests.core.tiger.test_decoding import logits_of

SIZES, N_ITEMS = (3, 4, 2), 14
ALL_CODES = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), axis=1)
CODES = np.random.default_rng(0).permutation(ALL_CODES)[:N_ITEMS]
TRIE = CodeTrie.build(CODES, SIZES)
HISTORY = torch.tensor([[1, 5, 2], [3, 0, 0]])
TARGETS = torch.tensor([[5, 2, 9], [7, -1, -1]])


def objective(**settings: object) -> NextItemLoss:
    torch.manual_seed(0)
    config = TigerConfig(
        level_sizes=SIZES,
        known_items=N_ITEMS,
        d_model=16,
        heads=2,
        d_ff=16,
        dropout=0.0,
        content_views=settings.get("content_views", 1),
        id_views=settings.get("id_views", 0),
    )
    model = TigerModel(config).eval()
    frequency = torch.full((N_ITEMS,), 1 / N_ITEMS)
    codes, vectors = torch.from_numpy(CODES), torch.zeros(N_ITEMS, 0)
    return NextItemLoss(model, codes, vectors, frequency, TRIE, TrainingSettings(label_smoothing=0.0, **settings))


def dense_log_probs(loss: NextItemLoss) -> torch.Tensor:
    model = loss.model
    memory = model.encode(model.item_encoder(HISTORY, loss.codes[HISTORY], loss.vectors[HISTORY]))
    vectors = model.item_encoder(HISTORY, loss.codes[HISTORY], loss.vectors[HISTORY])
    keys = model.dense.joined(
        model.dense.keys(model.item_encoder.views(torch.arange(N_ITEMS), loss.codes, loss.vectors))
    )
    return (model.dense.joined(model.dense.queries(memory, vectors)) @ keys.T).log_softmax(-1)


def test_the_dense_loss_is_the_cross_entropy_over_the_catalogue():
    without, with_dense = objective(dense_weight=0.0), objective(dense_weight=2.0, dense_label_smoothing=0.0)
    wanted = -dense_log_probs(with_dense)[TARGETS >= 0].gather(1, TARGETS[TARGETS >= 0].unsqueeze(1)).sum()
    difference = with_dense(HISTORY, TARGETS, TARGETS, 0.0) - without(HISTORY, TARGETS, TARGETS, 0.0)
    torch.testing.assert_close(difference, 2.0 * wanted)


def test_a_sampled_dense_loss_is_near_the_full_one():
    full = objective(dense_weight=1.0, dense_label_smoothing=0.0)(HISTORY, TARGETS, TARGETS, 0.0)
    sampled = objective(dense_weight=1.0, dense_full_items=0, dense_negatives=30)
    drawn = np.mean([sampled(HISTORY, TARGETS, TARGETS, 0.0).item() for _ in range(400)])
    assert drawn == pytest.approx(full.item(), rel=0.02)
    larger = objective(dense_weight=1.0, dense_full_items=0, dense_negatives=2000)
    assert larger(HISTORY, TARGETS, TARGETS, 0.0).item() == pytest.approx(full.item(), rel=1e-5)


def test_subtree_shares_sum_the_items_below_each_token():
    random = torch.Generator().manual_seed(3)
    rows = torch.tensor([0, 4, 13])
    probabilities = torch.rand(3, N_ITEMS, generator=random).softmax(-1)
    subtrees = SubtreeShares(TRIE, torch.device("cpu"))
    shares_by_level = subtrees.zeros(len(rows))
    for piece in (slice(0, 2), slice(2, 3)):
        subtrees.fill(shares_by_level, rows, piece, probabilities[piece][:, TRIE.leaf_row])
    for level, shares in enumerate(shares_by_level):
        for line, row in enumerate(rows.tolist()):
            below = (CODES[:, :level] == CODES[row, :level]).all(axis=1)
            wanted = np.bincount(CODES[below, level], probabilities[line].numpy()[below], minlength=SIZES[level])
            np.testing.assert_allclose(shares[line].numpy(), wanted / wanted.sum(), rtol=1e-5)


def test_a_large_catalogue_is_not_distilled():
    loss = objective(dense_weight=1.0, dense_full_items=0, dense_negatives=2000)
    torch.testing.assert_close(loss(HISTORY, TARGETS, TARGETS, 0.8), loss(HISTORY, TARGETS, TARGETS, 0.0))
    assert loss.subtrees is None


def test_distillation_pulls_the_levels_towards_the_dense_head():
    loss = objective(dense_weight=1.0, distillation=1.0)
    for parameter in [*loss.model.item_encoder.parameters(), *loss.model.encoder.parameters()]:
        parameter.requires_grad_(False)  # the dense head stays as it is

    def distance() -> float:
        inside = TARGETS >= 0
        soft = loss.subtrees.zeros(int(inside.sum()))
        loss.subtrees.fill(soft, TARGETS[inside], slice(None), dense_log_probs(loss)[inside].exp()[:, TRIE.leaf_row])
        logits = logits_of(
            loss.model, HISTORY, loss.codes[HISTORY], loss.vectors[HISTORY], loss.codes[TARGETS.clamp(min=0)]
        )
        return sum(
            float(torch.nn.functional.kl_div(scores[inside].log_softmax(-1), wanted, reduction="sum").detach())
            for scores, wanted in zip(logits, soft, strict=True)
        )

    loss.model.dense.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in loss.model.parameters() if p.requires_grad], lr=0.02)
    before = distance()
    for _ in range(40):
        optimizer.zero_grad()
        loss(HISTORY, TARGETS, TARGETS, 1.0).backward()
        optimizer.step()
    assert distance() < 0.2 * before


@pytest.mark.parametrize(("content_views", "id_views"), [(1, 1), (2, 0), (2, 2)])
def test_views_have_a_loss_each_and_rank_by_their_mean_logit(content_views: int, id_views: int):
    loss = objective(dense_weight=1.0, dense_label_smoothing=0.0, content_views=content_views, id_views=id_views)
    model = loss.model
    read = model.item_encoder(HISTORY, loss.codes[HISTORY], loss.vectors[HISTORY])
    catalogue = model.item_encoder.views(torch.arange(N_ITEMS), loss.codes, loss.vectors)
    queries, keys = model.dense.queries(model.encode(read), read), model.dense.keys(catalogue)
    logits = [query @ key.T for query, key in zip(queries, keys, strict=True)]
    joined = model.dense.joined(queries) @ model.dense.joined(keys).T
    torch.testing.assert_close(joined, sum(logits) / len(logits))
    following = torch.tensor([[5, 2, 3], [8, -1, -1]])  # what the identity views learn
    inside = TARGETS >= 0
    wanted = sum(
        torch.nn.functional.cross_entropy(view[inside], rows[inside], reduction="sum")
        for view, rows in zip(logits, [TARGETS] * content_views + [following] * id_views, strict=True)
    )
    codes = loss.codes[TARGETS.clamp(min=0)]
    for level, scores in enumerate(logits_of(model, HISTORY, loss.codes[HISTORY], loss.vectors[HISTORY], codes)):
        wanted = wanted + torch.nn.functional.cross_entropy(scores[inside], codes[..., level][inside], reduction="sum")
    torch.testing.assert_close(loss(HISTORY, TARGETS, following, 0.0), wanted)


def test_views_of_one_kind_differ():
    model = objective(content_views=2, id_views=2).model
    vectors = model.item_encoder.views(torch.arange(N_ITEMS), torch.from_numpy(CODES), torch.zeros(N_ITEMS, 0))
    assert len(vectors) == 4
    assert not torch.allclose(vectors[0], vectors[1])
    assert not torch.allclose(vectors[2], vectors[3])


def test_an_identity_view_needs_learned_item_vectors():
    with pytest.raises(GenrecError, match="id_views needs learn_item_vectors"):
        TigerConfig(level_sizes=SIZES, known_items=0, id_views=1)


def test_several_views_need_the_dense_head():
    with pytest.raises(GenrecError, match="several views need a dense_weight above 0"):
        TigerConfig(level_sizes=SIZES, content_views=2, dense=False)
