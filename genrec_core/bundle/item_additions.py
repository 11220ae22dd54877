"""Adds items to an exported model without training or exporting it again. Needs no torch.

A new item gets what an export of the larger catalogue would give it: a code from the stored codebooks, its text
vector, the learned vector of the trained item of the nearest text, neighbours, and attributes for rules. What the model
holds of the other items stays as it is.
"""

import shutil
from pathlib import Path

import numpy as np

from genrec_core.bundle.item_details import extend_item_details
from genrec_core.bundle.item_table import ItemTable
from genrec_core.bundle.model_folder import (
    ADDITION_SETTINGS,
    ITEM_ENCODER,
    NEW_ITEMS,
    TEXT_VECTORS,
    WITHDRAWN,
    ModelFolder,
    ModelItems,
)
from genrec_core.bundle.new_items import NewItems
from genrec_core.data.ids import id_array
from genrec_core.data.item_text import ItemFields, render_text
from genrec_core.embedding.item_embeddings import ItemEmbeddings, l2_normalized, learned_rows, text_model
from genrec_core.errors import GenrecError
from genrec_core.graphs import open_graph
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.quantization.update import extend_ids
from genrec_core.search.key_index import RoundedKeys
from genrec_core.search.neighbors import Neighbors
from genrec_core.settings import EmbeddingSettings, Settings
from genrec_core.storage.artifacts import (
    atomic_folder,
    locked_place,
    read_array,
    read_json,
    verify_manifest,
    write_manifest,
)


class AdditionSettings(Settings):
    """The content of ``new_items.json``: what adding items must know of the model."""

    embedding_model: str  # for this one and the next two see genrec_core.settings.EmbeddingSettings
    max_tokens: int = EmbeddingSettings().max_tokens
    int8: bool = False
    item_fields: ItemFields = ItemFields()  # what the texts are made of
    reads_texts: bool  # whether the model reads text vectors
    known_items: int  # for this one and the next see genrec_core.tiger.model.TigerConfig
    untrained_items: tuple[int, ...]
    neighbors: int  # neighbours an item at the export; 0 for none
    neighbor_weight: float  # how far they are lifted, in logits

    def embedding(self) -> EmbeddingSettings:
        """How the texts of the model's items were embedded."""
        return EmbeddingSettings(model=self.embedding_model, max_tokens=self.max_tokens, int8=self.int8)

    @classmethod
    def load(cls, model_dir: Path) -> "AdditionSettings":
        """Read ``new_items.json``."""
        path = model_dir / NEW_ITEMS / ADDITION_SETTINGS
        try:
            return cls.model_validate(read_json(path))
        except ValueError as error:  # a GenrecError too
            raise GenrecError(f"{path}: missing or damaged, so nothing can be added; export the model again") from error


def add_items(model_dir: Path, new: NewItems, vectors: np.ndarray, target: Path | None = None) -> np.ndarray:
    """Write a model folder that holds new items too; it appears whole or not at all. Withdrawn items stay withdrawn.

    Args:
        model_dir: an exported model.
        new: the items, none of which the model holds.
        vectors: their text vectors by the model's embedding model, float32 [m, dim], not normalised.
        target: a new folder to write; None: ``model_dir`` is replaced.

    Returns:
        The codes of the new items with suffix, int32 [m, levels + 1].
    """
    if target is not None and target.exists():
        raise GenrecError(f"{target}: is there already; name a new folder")
    with locked_place(model_dir):
        verify_manifest(model_dir)
        folder, settings = ModelFolder(model_dir), AdditionSettings.load(model_dir)
        items = folder.items()
        known = SemanticIds(items.item_ids, items.codes, folder.settings.level_sizes)
        extended = extend_ids(known, new.item_ids.tolist(), vectors, model_dir / NEW_ITEMS, model_dir)
        with atomic_folder(target or model_dir.resolve()) as part:
            shutil.copytree(model_dir, part, dirs_exist_ok=True)
            _write_added(ModelFolder(part), settings, items, extended, l2_normalized(vectors))
            if folder.takes_rules:
                ItemTable.load(model_dir, items.item_ids).with_new(new.item_ids, new.fields).save(part)
            write_manifest(part, unlisted=WITHDRAWN)
    return extended.codes[len(known.codes) :]


def texts_of(model_dir: Path, fields: ItemFields) -> tuple[list[str], np.ndarray]:
    """The texts of a model's items by its table of attributes, and their vectors of length 1, float32 [n, dim].

    The table may hold less of an item than the text that was embedded: it has no ready text and no description. There
    are no texts where the model has no table, or the table lacks a field of the template.
    """
    folder, vectors = ModelFolder(model_dir), read_array(model_dir / NEW_ITEMS / TEXT_VECTORS)
    parts = fields.parts()
    table = ItemTable.load(model_dir, folder.item_ids) if folder.takes_rules else None
    if table is None or any(field and field not in table.columns for _, field in parts):
        return [], vectors[:0]
    texts = [render_text(parts, row) for row in table.rows()]
    rows = [row for row, text in enumerate(texts) if text]
    return [texts[row] for row in rows], vectors[rows]


def vector_rows(embeddings: ItemEmbeddings, item_ids: np.ndarray, folder: Path) -> np.ndarray:
    """The rows int64 [n] of items in the ``embeddings`` read from ``folder``."""
    rows = np.searchsorted(embeddings.item_ids, item_ids).clip(max=max(len(embeddings.item_ids) - 1, 0))
    missing = item_ids[embeddings.item_ids[rows] != item_ids]
    if len(missing):
        count = f"({len(missing)} such items)"
        raise GenrecError(f"{folder}: no vector of item {missing[0]} {count}; materialise item_embeddings first")
    return rows


def new_in_catalog(model: Path, catalog: Path, embeddings: Path) -> tuple[NewItems, np.ndarray]:
    """The items of a catalogue that a release does not hold, and their text vectors float32 [n, dim], not normalised.

    ``model`` is the exported model of the release, ``catalog`` a Parquet file, ``embeddings`` a folder of text vectors.
    """
    import polars as pl

    known, frame = set(ModelFolder(model).item_ids.tolist()), pl.read_parquet(catalog)
    new = frame.filter([item not in known for item in frame["item_id"]])
    ids, vectors = id_array(new["item_id"]), ItemEmbeddings.load(embeddings)
    rows = vector_rows(vectors, ids, embeddings)
    needed, present = AdditionSettings.load(model).embedding_model, text_model(embeddings)
    if needed != present:
        raise GenrecError(f"the release reads texts by {needed}, but {embeddings} is of {present}; train anew")
    items = NewItems(ids, new["text"].to_list(), new.drop("item_id", "text").to_dicts())
    return items, np.asarray(vectors.raw[rows], dtype=np.float32)


def _write_added(
    folder: ModelFolder, settings: AdditionSettings, items: ModelItems, extended: SemanticIds, new_texts: np.ndarray
) -> None:
    """Write the files of all items, of which those behind ``items`` are new and have normalised ``new_texts``."""
    known_texts = folder.array(f"{NEW_ITEMS}/{TEXT_VECTORS}")
    texts = np.concatenate([known_texts, new_texts])
    read_texts = texts if settings.reads_texts else texts[:, :0]
    first = len(known_texts)
    inputs = {
        "rows": learned_rows(read_texts, settings.known_items, settings.untrained_items, first=first),
        "codes": extended.codes[first:].astype(np.int64),
        "vectors": read_texts[first:],
    }
    encoder = open_graph(folder.path / NEW_ITEMS / ITEM_ENCODER, threads=None)
    new_vectors, new_keys = encoder.run(["items", "keys"], inputs)
    popularity = np.concatenate([items.popularity, np.zeros(len(new_texts), dtype=items.popularity.dtype)])
    vectors = np.concatenate([items.vectors, new_vectors.astype(items.vectors.dtype)])
    keys, scales = (new_keys, None) if items.scales is None else RoundedKeys.of(new_keys)
    keys = np.concatenate([items.keys, keys])
    scales = None if items.scales is None else np.concatenate([items.scales, scales])
    codes = extended.codes.astype(np.int32)
    folder.save_items(ModelItems(extended.item_ids, codes, popularity, vectors, keys, scales))
    neighbors = Neighbors.load(folder.path, len(known_texts)) if settings.neighbors else None
    if neighbors is not None:
        neighbors.extended(known_texts, new_texts, settings.neighbors, settings.neighbor_weight).save(folder.path)
    folder.save_array(f"{NEW_ITEMS}/{TEXT_VECTORS}", texts)
    extend_item_details(folder, len(new_texts))
