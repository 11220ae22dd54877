"""Turns a trained TIGER checkpoint into a model folder that onnxruntime serves without torch.

The folder holds ``recommender.json`` (sizes), ``history_encoder.onnx`` with level 0, ``decoder_step_<level>.onnx``,
``token_vectors.npy`` and ``prefix_vectors.npy`` (what the decoder adds for a token and for a prefix),
``item_ids.npy``, ``codes_with_suffix.npy``, ``popularity.npy``, ``item_vectors.npy`` (what the encoder reads of each
item), ``item_keys.npy`` (what the dense head compares a query with), ``neighbors.npy`` and ``neighbor_bonus.npy`` (what
it lifts beside the history), ``items.json`` (title, brand, categories and price, for rules), the folder ``new_items``
(see :mod:`genrec_core.export.item_encoder`), ``self_test.npz`` (see :mod:`genrec_core.bundle.self_test`) and
``manifest.json``.
"""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from genrec_core.bundle.model_folder import (
    CODES,
    ITEM_IDS,
    ITEM_KEYS,
    ITEM_VECTORS,
    NEIGHBOR_BONUS,
    NEIGHBORS,
    POPULARITY,
)
from genrec_core.bundle.onnx_scorer import ENCODER, FORMAT, PREFIXES, SETTINGS, TOKENS, OnnxScorer, step_graph
from genrec_core.bundle.self_test import write_self_test
from genrec_core.embedding.item_embeddings import ItemEmbeddings
from genrec_core.errors import GenrecError
from genrec_core.export.graphs import export_graph
from genrec_core.export.item_encoder import export_item_encoder
from genrec_core.export.items import item_table
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.search.neighbors import TextNeighbors
from genrec_core.storage.artifacts import atomic_folder, write_json, write_manifest
from genrec_core.tiger.decoding import DecoderStep, HistoryEncoder, token_vectors
from genrec_core.tiger.model import TigerModel
from genrec_core.tiger.scorer import item_inputs, item_keys, item_vector_table

# Example sizes. Each is at least 2 and none equals another: torch.export takes a 0 or 1 for a constant, and equal sizes
# for the same axis.
_BATCH, _TIME, _ITEMS, _WIDTH, _BEAMS, _EARLIER = 2, 5, 6, 3, 4, 7


def export_recommender(
    checkpoint: Path,
    semantic_ids: Path,
    embeddings: Path,
    popularity: np.ndarray,
    target: Path,
    catalog: pl.DataFrame | None = None,
) -> None:
    """Write the model folder ``target``; it appears whole, its manifest last, or not at all.

    Args:
        checkpoint: the folder of ``tiger_checkpoint`` (Hugging Face form).
        semantic_ids: the folder of ``semantic_ids`` that the model was trained on.
        embeddings: the folder of ``item_embeddings``.
        popularity: training interactions by catalogue row, int [n_items].
        target: the folder to write; replaced if it is there.
        catalog: the frame of ``item_catalog``; without it, the model takes no rules. An item that it lacks has no
            title, brand, category or price.

    Raises:
        GenrecError: the inputs are of different catalogues, or not what the model was trained on.
    """
    model = TigerModel.from_pretrained(checkpoint).eval()
    ids = SemanticIds.load(semantic_ids)
    vectors = _vectors_of(ids, semantic_ids, embeddings)
    _require_same_items(model, ids, vectors, popularity, checkpoint, semantic_ids)
    with atomic_folder(target) as folder:
        export_graphs(model, folder)
        np.save(folder / ITEM_IDS, ids.item_ids.astype(np.int64), allow_pickle=False)
        np.save(folder / CODES, ids.codes.astype(np.int32), allow_pickle=False)
        np.save(folder / POPULARITY, popularity.astype(np.int64), allow_pickle=False)
        table = item_vector_table(model.config.item_vector_dim, len(ids.codes), vectors)
        items = item_inputs(model, torch.from_numpy(ids.codes.astype(np.int64)), table)
        np.save(folder / ITEM_VECTORS, items.numpy(), allow_pickle=False)
        neighbors = _save_neighbors(model, vectors, folder)
        export_item_encoder(model, vectors, neighbors, semantic_ids, embeddings, folder)
        keys = item_keys(model, items).numpy()
        np.save(folder / ITEM_KEYS, keys, allow_pickle=False)
        write_self_test(folder, OnnxScorer(folder, items.numpy(), keys), ids.codes)
        if catalog is not None:
            item_table(catalog, ids.item_ids).save(folder)
        write_manifest(folder)


def _save_neighbors(model: TigerModel, vectors: np.ndarray, folder: Path) -> int:
    """What the dense head's ranking lifts, if anything; how many items an item."""
    config = model.config
    if not config.neighbor_weight:
        return 0
    neighbors = TextNeighbors.of(vectors, config.text_neighbors, config.neighbor_weight)
    np.save(folder / NEIGHBORS, neighbors.rows, allow_pickle=False)
    np.save(folder / NEIGHBOR_BONUS, neighbors.bonus, allow_pickle=False)
    return neighbors.rows.shape[1]


def _vectors_of(ids: SemanticIds, semantic_ids: Path, embeddings: Path) -> np.ndarray:
    """The normalised text vectors float32 [n_items, dim] in the order of the semantic IDs.

    Items that got their ID later stand behind the others there, but not in the embeddings.
    """
    found = ItemEmbeddings.load(embeddings)
    place = np.searchsorted(found.item_ids, ids.item_ids).clip(max=max(len(found.item_ids) - 1, 0))
    missing = ids.item_ids[found.item_ids[place] != ids.item_ids]
    if len(missing):
        raise GenrecError(
            f"{embeddings} has no vector of item {missing[0]} ({len(missing)} such items), which {semantic_ids} lists; "
            "embed the whole catalogue again"
        )
    return np.asarray(found.l2norm[place], dtype=np.float32)


def _require_same_items(
    model: TigerModel,
    ids: SemanticIds,
    vectors: np.ndarray,
    popularity: np.ndarray,
    checkpoint: Path,
    semantic_ids: Path,
) -> None:
    if list(model.config.level_sizes) != list(ids.level_sizes):
        raise GenrecError(
            f"{checkpoint} was trained on level sizes {list(model.config.level_sizes)}, but {semantic_ids} has "
            f"{list(ids.level_sizes)}; train it on these semantic IDs"
        )
    dim = model.config.item_vector_dim
    if dim not in (0, vectors.shape[1]):
        raise GenrecError(
            f"{checkpoint} reads item vectors of {dim} columns, but they have {vectors.shape[1]}; train it on these"
        )
    if popularity.shape != ids.item_ids.shape:
        raise GenrecError(f"popularity has shape {popularity.shape}, but {semantic_ids} has {len(ids.item_ids)} items")


def export_graphs(model: TigerModel, folder: Path) -> None:
    """Write ``recommender.json`` and the graphs, whose batch, time and beams are dynamic, into ``folder``."""
    config = model.config
    settings = {
        "format": FORMAT,
        "level_sizes": list(config.level_sizes),
        "max_history": config.max_history,
        "item_width": config.d_model * config.views,
        "dense": config.dense,
        "hybrid_weight": config.hybrid_weight,
    }
    write_json(folder / SETTINGS, settings)
    model = model.cpu().float().eval()
    with torch.no_grad():
        np.save(folder / TOKENS, token_vectors(model).numpy(), allow_pickle=False)
        np.save(folder / PREFIXES, model.prefix_embedding.weight.numpy(), allow_pickle=False)
    _export_encoder(model, folder / ENCODER)
    for level in range(1, len(config.level_sizes)):
        _export_step(model, level, folder / step_graph(level))


def _export_encoder(model: TigerModel, path: Path) -> None:
    length = min(_TIME, model.config.max_history)
    inputs = {
        "items": torch.zeros(_ITEMS, model.config.d_model * model.config.views),
        "lengths": torch.ones(_BATCH, dtype=torch.int64),
        "places": torch.zeros(_BATCH, length, dtype=torch.int64),
        "own": torch.zeros(_ITEMS, dtype=torch.int64),
        "newest": torch.zeros(_BATCH, dtype=torch.int64),
    }
    dynamic: dict[str, dict[int, str]] = {
        "items": {0: "items"},
        "lengths": {0: "batch"},
        "places": {0: "batch", 1: "time"},
        "own": {0: "items"},
        "newest": {0: "batch"},
    }
    crossed = _by_layer(model, ("keys", "offsets", "values"))
    outputs = ["context", "query", "logits", *crossed, *_by_layer(model, ("key", "value"))]
    export_graph(HistoryEncoder(model), inputs, tuple(dynamic.values()), outputs, path)


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
