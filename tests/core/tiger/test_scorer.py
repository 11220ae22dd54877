"""What the scorer makes of items that training never saw."""

import numpy as np
import torch

from genrec_core.tiger.model import TigerConfig, TigerModel
from genrec_core.tiger.scorer import TorchScorer

DIM = 6


def text(n: int) -> torch.Tensor:
    vectors = torch.randn(n, DIM, generator=torch.Generator().manual_seed(0))
    vectors[2], vectors[7] = 3 * vectors[5], vectors[0] + 0.01  # what items 2 and 7 are like
    return vectors


def test_a_new_item_scores_beside_the_one_that_it_is_like():
    torch.manual_seed(0)
    sizes = {"d_model": 16, "heads": 2, "d_ff": 16, "level_sizes": (4, 4, 2), "item_vector_dim": DIM}
    model = TigerModel(TigerConfig(**sizes, known_items=6, untrained_items=[2], id_views=1))
    with torch.no_grad():
        for table in (model.item_encoder.contents[0].own, model.item_encoder.identities[0]):
            table.weight.normal_(std=3.0)
    codes = np.stack([np.arange(8) % 4, np.arange(8) // 4, np.zeros(8)], axis=1).astype(np.int64)
    keys = TorchScorer(model, codes, text(8).numpy()).keys
    nearest = [int(torch.cdist(keys[row : row + 1], keys[[0, 1, 3, 4, 5]]).argmin()) for row in (2, 7)]
    assert nearest == [4, 0]  # places of items 5 and 0
