"""Step-by-step decoding is the same model as the training pass, for every number of views and layers."""

import numpy as np
import pytest
import torch

from genrec_core.data.histories import HistoryBatch
from genrec_core.search.beams import BeamAncestry
from genrec_core.tiger.decoding import DecoderStep, HistoryEncoder, token_vectors
from genrec_core.tiger.model import TigerConfig, TigerModel

BATCH, TIME, LEVELS, DIM = 3, 7, 4, 12
LENGTHS = torch.tensor([TIME, 4, 1])


def build(decoder_layers: int, content_views: int, id_views: int, encoder_layers: int = 2) -> TigerModel:
    torch.manual_seed(0)
    config = TigerConfig(
        level_sizes=[8, 8, 8, 4], item_vector_dim=DIM, known_items=20, d_model=32, heads=4, d_ff=64, max_history=TIME,
        decoder_layers=decoder_layers, content_views=content_views, id_views=id_views, encoder_layers=encoder_layers,
    )  # fmt: skip
    model = TigerModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def batch() -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 4, (BATCH, TIME, LEVELS), generator=random)
    targets = torch.randint(0, 4, (BATCH, TIME, LEVELS), generator=random)
    rows = torch.randint(0, 30, (BATCH, TIME), generator=random)  # some beyond the 20 known items
    return rows, codes, torch.randn(BATCH, TIME, DIM, generator=random), targets


def logits_of(model: TigerModel, *batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Logits of the training pass for the item after each position, one tensor [BATCH, TIME, level size] a level."""
    *inputs, targets = batch
    items = model.item_encoder(*inputs)
    memory = model.encode(items)
    return model.decode(memory, model.dense.queries(memory, items), targets)


class Decoding:
    """Decodes level by level what a test chooses."""

    def __init__(self, model: TigerModel, items: torch.Tensor) -> None:
        self.model, self.tokens = model, token_vectors(model)
        flat = HistoryBatch(np.zeros((BATCH, TIME), dtype=np.int32), LENGTHS.numpy()).flat()
        where = map(torch.from_numpy, (flat.lengths, flat.places, flat.own, flat.newest))
        self.context, self.query, self.first, *rest = HistoryEncoder(model)(items.flatten(0, 1)[flat.own], *where)
        layers = model.config.decoder_layers
        self.cross, self.earlier = rest[: 3 * layers], [rest[3 * layers :]]
        self.lineage = BeamAncestry(BATCH, model.config.prefix_buckets)

    def advance(self, tokens: torch.Tensor, parents: list[int], users: list[int]) -> torch.Tensor:
        level = len(self.earlier)
        rows = (self.model.token_offset[level - 1] + tokens).numpy()
        self.lineage.descend(rows, np.array(parents), np.array(users))
        x = self.tokens[rows] + self.model.prefix_embedding(torch.from_numpy(self.lineage.prefix)) + self.context[users]
        inputs = [*self.cross, torch.from_numpy(self.lineage.places), torch.from_numpy(self.lineage.own)]
        for ancestors, kept in zip(self.lineage.ancestors, self.earlier, strict=True):
            inputs += [torch.from_numpy(ancestors), *kept]
        logits, *own = DecoderStep(self.model, level)(x, *inputs)
        self.earlier.append(own)
        return logits.log_softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("layers", "contents", "identities", "encoder_layers"), [(1, 1, 0, 2), (1, 1, 1, 1), (2, 3, 2, 3), (2, 1, 0, 2)]
)
def test_stepwise_decoding_gives_what_the_training_pass_gives(
    layers: int, contents: int, identities: int, encoder_layers: int
):
    model = build(layers, contents, identities, encoder_layers)
    rows, codes, vectors, targets = batch()
    logits, items = logits_of(model, rows, codes, vectors, targets), model.item_encoder(rows, codes, vectors)
    decoding, users, newest = Decoding(model, items), torch.arange(BATCH), LENGTHS - 1
    queries = [query[users, newest] for query in model.dense.queries(model.encode(items), items)]
    torch.testing.assert_close(decoding.query, model.dense.joined(queries), atol=1e-5, rtol=1e-5)
    scores, beams = decoding.first.log_softmax(-1), list(range(BATCH))
    for level in range(LEVELS):
        wanted = logits[level][users, newest].log_softmax(-1)
        torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=1e-5)
        if level + 1 < LEVELS:
            scores = decoding.advance(targets[users, newest, level], beams, beams)


@torch.no_grad()
def test_beams_read_their_own_ancestors_and_history_however_many_a_user_has():
    model, (rows, codes, vectors, _) = build(2, 1, 0), batch()
    items = model.item_encoder(rows, codes, vectors)

    def scored(order: list[int]) -> torch.Tensor:
        """Of the second user's four beams, behind one beam of the first and before none of the third."""
        decoding = Decoding(model, items)
        decoding.advance(torch.tensor([3, 0, 1, 2]), [0, 1, 1, 1], [0, 1, 1, 1])
        decoding.advance(torch.tensor([2, 3, 3, 1, 0]), [0, *(1 + parent for parent in order)], [0, 1, 1, 1, 1])
        return decoding.advance(torch.tensor([1, 1, 1, 1, 1]), [0, 4, 3, 2, 1], [0, 1, 1, 1, 1])[1:]

    swapped, plain = scored([2, 0, 0, 1]), scored([0, 2, 0, 1])
    torch.testing.assert_close(swapped[:2], plain[:2])
    torch.testing.assert_close(swapped[[3, 2]], plain[[2, 3]])
    assert not torch.allclose(swapped[2], swapped[3])


@torch.no_grad()
def test_a_level_reads_the_tokens_before_it():
    model, (rows, codes, vectors, targets) = build(2, 1, 0), batch()
    other = (targets + 1) % 4
    pairs = zip(
        logits_of(model, rows, codes, vectors, targets), logits_of(model, rows, codes, vectors, other), strict=True
    )
    assert [torch.allclose(one, two) for one, two in pairs] == [True, False, False, False]
