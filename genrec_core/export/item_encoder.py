"""What an exported model takes along so that items can be added to it without torch: the folder ``new_items``.

It holds ``item_encoder.onnx`` (from a row of the learned vectors, a code and a text vector to what the encoder reads of
an item and to its key), ``text_vectors.npy``, the codebooks of the semantic IDs, and ``new_items.json``.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from genrec_core.bundle.item_additions import FOLDER, GRAPH, HEADER, TEXT_VECTORS, AdditionSettings
from genrec_core.embedding.item_embeddings import STATS
from genrec_core.export.graphs import export_graph
from genrec_core.quantization.collaborative import CollaborativeMap
from genrec_core.quantization.residual import ResidualQuantizer
from genrec_core.storage.artifacts import read_json, write_json
from genrec_core.tiger.model import TigerModel

_ITEMS = 3  # of the example


class ItemGraph(nn.Module):
    """What the encoder reads of items, and their keys."""

    def __init__(self, model: TigerModel) -> None:
        super().__init__()
        self.items, self.dense, self.width = model.item_encoder, model.dense, model.config.d_model

    def forward(self, rows: Tensor, codes: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Rows int64 [n], codes int64 [n, L], vectors [n, item_vector_dim] -> two of [n, views x D]."""
        items = self.items(rows, codes, vectors)
        return items, self.dense.joined(self.dense.keys(list(items.split(self.width, dim=-1))))


def export_item_encoder(
    model: TigerModel, vectors: np.ndarray, neighbors: int, semantic_ids: Path, embeddings: Path, model_dir: Path
) -> None:
    """Write the folder ``new_items`` of a model folder.

    Args:
        model: in evaluation mode, on the CPU.
        vectors: normalised text vectors by catalogue row, float32 [n_items, dim].
        neighbors: neighbours an item in the dense head's ranking; 0 for none.
        semantic_ids: the folder that the codebooks are in.
        embeddings: the folder that names the embedding model.
        model_dir: the folder being written.
    """
    folder, config = model_dir / FOLDER, model.config
    folder.mkdir()
    _export_graph(model, folder / GRAPH)
    np.save(folder / TEXT_VECTORS, vectors, allow_pickle=False)
    ResidualQuantizer.load(semantic_ids).save(folder)
    if collaborative := CollaborativeMap.load(semantic_ids):
        collaborative.save(folder)
    settings = AdditionSettings(
        embedding_model=read_json(embeddings / STATS)["model"],
        reads_texts=config.item_vector_dim > 0,
        known_items=config.known_items,
        untrained_items=tuple(config.untrained_items),
        neighbors=neighbors,
        neighbor_weight=config.neighbor_weight,
    )
    write_json(folder / HEADER, settings.model_dump())


def _export_graph(model: TigerModel, path: Path) -> None:
    config = model.config
    inputs = {
        "rows": torch.zeros(_ITEMS, dtype=torch.int64),
        "codes": torch.zeros(_ITEMS, len(config.level_sizes), dtype=torch.int64),
        "vectors": torch.zeros(_ITEMS, config.item_vector_dim),
    }
    axis = {0: "items"}
    with torch.no_grad():
        export_graph(ItemGraph(model), inputs, (axis, axis, axis), ["items", "keys"], path)
