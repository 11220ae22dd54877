"""Turns a trained TIGER checkpoint into a model folder that onnxruntime serves without torch.

:mod:`genrec_core.bundle.model_folder` names the files and says what they hold.
"""

from pathlib import Path

import numpy as np
import onnx
import polars as pl
import torch
from torch import Tensor, nn

from genrec_core.bundle.item_additions import AdditionSettings, vector_rows
from genrec_core.bundle.item_table import ItemTable
from genrec_core.bundle.model_folder import (
    ADDITION_SETTINGS,
    ENCODER,
    ITEM_ENCODER,
    ITEM_LOGITS,
    NEW_ITEMS,
    PREFIXES,
    TEXT_VECTORS,
    TOKENS,
    GraphSettings,
    ModelFolder,
    ModelItems,
    step_graph,
)
from genrec_core.bundle.onnx_scorer import write_self_test
from genrec_core.data.histories import Histories
from genrec_core.data.split import training_part
from genrec_core.embedding.item_embeddings import ItemEmbeddings, item_fields, text_settings
from genrec_core.errors import GenrecError
from genrec_core.export.item_details import save_item_details
from genrec_core.graph_export import export_graph
from genrec_core.quantization.collaborative import CollaborativeMap
from genrec_core.quantization.residual import ResidualQuantizer
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.settings import ExportSettings
from genrec_core.storage.artifacts import atomic_folder, write_json, write_manifest
from genrec_core.tiger.decoding import DecoderStep, HistoryEncoder, token_vectors
from genrec_core.tiger.model import TigerModel
from genrec_core.tiger.scorer import (
    checkpoint_neighbors,
    item_tables,
    ranking_weights,
)

# Example sizes. Each is at least 2, and no two of one graph are equal: torch.export takes a 0 or 1 for a constant, and
# equal sizes for the same axis.
_BATCH, _TIME, _ITEMS, _WIDTH, _BEAMS, _EARLIER, _NEW_ITEMS = 2, 5, 6, 3, 4, 7, 3
# The item keys are an input, so that items can be added later.
_ITEM_LOGITS = """
<ir_version: 10, opset_import: ["": 20]>
item_logits (float[users, width] queries, float[items, width] keys) => (float[users, items] logits)
{
    logits = Gemm <transB = 1> (queries, keys)
}
"""
# A row's numbers become -127..127 around 128 in uint8, whatever users are in the batch. A row of zeros stays zero.
_ITEM_LOGITS_INT8 = """
<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
item_logits (float[users, width] queries, int8[width, items] keys, float[items] scales) => (float[users, items] logits)
<float step = {0.00787401574803}, uint8 middle = {128}, float least = {1e-30}, int64[1] columns = {1}>
{
    sizes = Abs (queries)
    largest_of_row = ReduceMax <keepdims = 1> (sizes, columns)
    largest = Max (largest_of_row, least)
    shares = Div (queries, largest)
    rounded = QuantizeLinear (shares, step, middle)
    product = com.microsoft.MatMulIntegerToFloat (rounded, keys, step, scales, middle)
    logits = Mul (product, largest)
}
"""


def export_recommender(
    checkpoint: Path,
    semantic_ids: Path,
    embeddings: Path,
    popularity: np.ndarray,
    target: Path,
    catalog: pl.DataFrame | None = None,
    trained: Histories | None = None,
    settings: ExportSettings | None = None,
) -> None:
    """Write the model folder ``target``; it appears whole, its manifest last, or not at all.

    Args:
        checkpoint: the folder of ``tiger_checkpoint``; the next two are those that it was trained on.
        popularity: training interactions by catalogue row, int [n_items].
        catalog: the frame of ``item_catalog``; without it, the model takes no rules.
        trained: histories, whose training part the model was trained on; without them, the model knows neither what
            was bought together nor what is recent or new, and has no example histories.
        settings: what it stores of these histories; None for the defaults.
    """
    model = TigerModel.from_pretrained(checkpoint).eval()
    ids = SemanticIds.load(semantic_ids)
    texts = ItemEmbeddings.load(embeddings)
    vectors = np.asarray(texts.l2norm[vector_rows(texts, ids.item_ids, embeddings)], dtype=np.float32)
    if list(model.config.level_sizes) != list(ids.level_sizes):
        raise GenrecError(
            f"{checkpoint} was trained on level sizes {list(model.config.level_sizes)}, but {semantic_ids} has "
            f"{list(ids.level_sizes)}; train it on these semantic IDs"
        )
    if (dim := model.config.item_vector_dim) not in (0, vectors.shape[1]):
        raise GenrecError(f"{checkpoint} reads vectors of {dim} columns, not {vectors.shape[1]}; train it on these")
    if popularity.shape != ids.item_ids.shape:
        raise GenrecError(f"popularity has shape {popularity.shape}, but {semantic_ids} has {len(ids.item_ids)} items")
    with atomic_folder(target) as part:
        export_graphs(model, part)
        ModelFolder(part).save_items(_model_items(model, ids, vectors, popularity))
        neighbors = checkpoint_neighbors(model, checkpoint, vectors)
        if neighbors is not None:
            neighbors.save(part)
        count = 0 if neighbors is None else neighbors.rows.shape[1]
        _save_what_additions_need(model, vectors, count, semantic_ids, embeddings, part)
        if trained is not None:
            known = training_part(trained)
            save_item_details(ModelFolder(part), known, len(ids.item_ids), settings or ExportSettings())
        write_self_test(part)
        if catalog is not None:
            ItemTable.of_catalog(catalog, ids.item_ids).save(part)
        write_manifest(part)


def _model_items(model: TigerModel, ids: SemanticIds, vectors: np.ndarray, popularity: np.ndarray) -> ModelItems:
    items, keys = item_tables(model, ids.codes, vectors)
    stored = (keys.numpy(),) if isinstance(keys, Tensor) else keys
    popular = popularity.astype(np.int64)
    return ModelItems(ids.item_ids, ids.codes.astype(np.int32), popular, items.numpy(), *stored)


def _save_what_additions_need(
    model: TigerModel, vectors: np.ndarray, neighbors: int, semantic_ids: Path, embeddings: Path, part: Path
) -> None:
    """Write beside the item encoder what it needs for new items."""
    config, folder = model.config, part / NEW_ITEMS
    np.save(folder / TEXT_VECTORS, vectors, allow_pickle=False)
    ResidualQuantizer.load(semantic_ids).save(folder)
    if collaborative := CollaborativeMap.load(semantic_ids):
        collaborative.save(folder)
    embedding = text_settings(embeddings)
    settings = AdditionSettings(
        embedding_model=embedding.model,
        max_tokens=embedding.max_tokens,
        int8=embedding.int8,
        item_fields=item_fields(embeddings),
        reads_texts=config.item_vector_dim > 0,
        known_items=config.known_items,
        untrained_items=tuple(config.untrained_items),
        neighbors=neighbors,
        neighbor_weight=config.neighbor_weight,
    )
    write_json(folder / ADDITION_SETTINGS, settings.model_dump())


def export_graphs(model: TigerModel, path: Path) -> None:
    """Write ``recommender.json``, the graphs and the decoder's vectors. Nothing here depends on the items."""
    config, folder = model.config, ModelFolder(path)
    sizes, width = tuple(config.level_sizes), config.d_model * config.views
    weights = ranking_weights(config)
    modes = (weights.dense, weights.hybrid, weights.auto, weights.exclude_seen)
    folder.save_settings(GraphSettings(sizes, config.max_history, width, *modes))
    model = model.cpu().float().eval()
    with torch.no_grad():
        folder.save_array(TOKENS, token_vectors(model).numpy())
        folder.save_array(PREFIXES, model.prefix_embedding.weight.numpy())
    _export_history_encoder(model, path / ENCODER)
    for level in range(1, len(sizes)):
        _export_step(model, level, path / step_graph(level))
    write_item_logits(path / ITEM_LOGITS)
    (path / NEW_ITEMS).mkdir()
    _export_item_encoder(model, path / NEW_ITEMS / ITEM_ENCODER)


def _export_history_encoder(model: TigerModel, path: Path) -> None:
    length = min(_TIME, model.config.max_history)
    inputs = {
        "items": torch.zeros(_ITEMS, model.config.d_model * model.config.views),
        "lengths": torch.ones(_BATCH, dtype=torch.int64),
        "places": torch.zeros(_BATCH, length, dtype=torch.int64),
        "own": torch.zeros(_ITEMS, dtype=torch.int64),
        "newest": torch.zeros(_BATCH, dtype=torch.int64),
    }
    items, batch = {0: "items"}, {0: "batch"}
    crossed = _by_layer(model, ("keys", "offsets", "values"))
    outputs = ["context", "query", "logits", *crossed, *_by_layer(model, ("key", "value"))]
    dynamic = (items, batch, {0: "batch", 1: "time"}, items, batch)
    export_graph(HistoryEncoder(model), inputs, dynamic, outputs, path)


def _by_layer(model: TigerModel, names: tuple[str, ...]) -> list[str]:
    return [f"{name}_{layer}" for layer in range(model.config.decoder_layers) for name in names]


def _export_step(model: TigerModel, level: int, path: Path) -> None:
    """The step of ``level``; beams differ in number from level to level."""
    width, crossed = model.config.d_model, model.config.heads * _TIME
    inputs, dynamic = {}, []

    def add(name: str, shape: dict[int, str], *sizes: int, dtype: torch.dtype = torch.float32) -> None:
        inputs[name] = torch.zeros(*sizes, dtype=dtype)
        dynamic.append(shape)

    add("x", {0: "beams"}, _BEAMS, width)
    for layer in range(model.config.decoder_layers):
        add(f"keys_{layer}", {0: "batch", 1: "crossed"}, _BATCH, crossed, width)
        add(f"offsets_{layer}", {0: "batch", 1: "crossed"}, _BATCH, crossed, 1)
        add(f"values_{layer}", {0: "batch", 1: "crossed"}, _BATCH, crossed, width)
    add("places", {0: "batch", 1: "width"}, _BATCH, _WIDTH, dtype=torch.int64)
    add("own", {0: "beams"}, _BEAMS, dtype=torch.int64)
    for earlier in range(level):
        add(f"ancestors_{earlier}", {0: "beams"}, _BEAMS, dtype=torch.int64)
        for name in _by_layer(model, (f"key_{earlier}", f"value_{earlier}")):
            rows = (_EARLIER + earlier, f"beams_{earlier}") if earlier else (_BATCH, "batch")
            add(name, {0: rows[1]}, rows[0], width)
    outputs = ["logits", *_by_layer(model, (f"key_{level}_own", f"value_{level}_own"))]
    export_graph(DecoderStep(model, level), inputs, (dynamic[0], tuple(dynamic[1:])), outputs, path)


class ItemGraph(nn.Module):
    """From a row of the learned vectors, a code and a text vector to the item's vector and its key."""

    def __init__(self, model: TigerModel) -> None:
        super().__init__()
        self.items, self.dense, self.width = model.item_encoder, model.dense, model.config.d_model

    def forward(self, rows: Tensor, codes: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Rows int64 [n], codes int64 [n, L], vectors [n, item_vector_dim] -> two of [n, views x D]."""
        items = self.items(rows, codes, vectors)
        return items, self.dense.joined(self.dense.keys(list(items.split(self.width, dim=-1))))


def _export_item_encoder(model: TigerModel, path: Path) -> None:
    config = model.config
    inputs = {
        "rows": torch.zeros(_NEW_ITEMS, dtype=torch.int64),
        "codes": torch.zeros(_NEW_ITEMS, len(config.level_sizes), dtype=torch.int64),
        "vectors": torch.zeros(_NEW_ITEMS, config.item_vector_dim),
    }
    axis = {0: "items"}
    with torch.no_grad():
        export_graph(ItemGraph(model), inputs, (axis, axis, axis), ["items", "keys"], path)


def write_item_logits(path: Path, int8: bool = False) -> None:
    """Write the graph, for keys in float32 or as :func:`genrec_core.bundle.onnx_scorer.rounded_keys` rounds them."""
    onnx.save(onnx.parser.parse_model(_ITEM_LOGITS_INT8 if int8 else _ITEM_LOGITS), path)
