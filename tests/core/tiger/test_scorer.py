"""What the scorer makes of items that training never saw."""

import numpy as np
import torch

from genrec_core.tiger.config import TigerConfig
from genrec_core.tiger.model import TigerModel
from genrec_core.tiger.scorer import TorchScorer, learned_rows

DIM = 6


def text(n: int) -> torch.Tensor:
    vectors = torch.randn(n, DIM, generator=torch.Generator().manual_seed(0))
    vectors[2], vectors[7] = 3 * vectors[5], vectors[0] + 0.01  # what items 2 and 7 are like
    return vectors


def test_an_item_without_training_stands_on_the_trained_item_of_the_nearest_text():
    config = TigerConfig(item_vector_dim=DIM, known_items=6, untrained_items=[2])
    assert learned_rows(config, text(8)).tolist()[:6] == [0, 1, 5, 3, 4, 5]
    assert learned_rows(config, text(8))[7] == 0
    assert set(learned_rows(config, text(8)).tolist()) <= {0, 1, 3, 4, 5}


def test_without_texts_it_has_what_unknown_items_have():
    config = TigerConfig(item_vector_dim=0, known_items=6, untrained_items=[2])
    assert learned_rows(config, torch.zeros(8, 0)).tolist() == [0, 1, 6, 3, 4, 5, 6, 6]


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
