"""Adds items to an exported model without training or exporting it again. Needs no torch.

A new item gets what an export of the larger catalogue would give it: a code from the stored codebooks, its text
vector, the learned vector of the trained item of the nearest text, neighbours, and attributes for rules. What the model
holds of the other items stays as it is.
"""

import shutil
from pathlib import Path

import numpy as np

from genrec_core.bundle.item_attributes import ITEMS, ItemTable
from genrec_core.bundle.model_folder import (
    CODES,
    ITEM_IDS,
    ITEM_KEYS,
    ITEM_VECTORS,
    NEIGHBOR_BONUS,
    NEIGHBORS,
    POPULARITY,
    WITHDRAWN,
)
from genrec_core.bundle.new_items import NewItems
from genrec_core.bundle.onnx_scorer import GraphSettings
from genrec_core.data.item_text import render_text, template_parts
from genrec_core.embedding.item_embeddings import l2_normalized
from genrec_core.embedding.learned_rows import learned_rows
from genrec_core.errors import GenrecError
from genrec_core.graphs import open_graph, read_array
from genrec_core.quantization.new_items import extend_ids
from genrec_core.quantization.semantic_ids import SemanticIds
from genrec_core.search.neighbors import TextNeighbors
from genrec_core.settings import Settings
from genrec_core.storage.artifacts import (
    MANIFEST,
    atomic_folder,
    locked_place,
    read_json,
    verify_manifest,
    write_manifest,
)

FOLDER, GRAPH, TEXT_VECTORS, HEADER = "new_items", "item_encoder.onnx", "text_vectors.npy", "new_items.json"


class AdditionSettings(Settings):
    """The content of ``new_items.json``: what must be known of the model to add items to it.

    Attributes:
        embedding_model: what embeds the texts.
        reads_texts: whether the model reads text vectors.
        known_items, untrained_items: see :class:`genrec_core.tiger.config.TigerConfig`.
        neighbors: neighbours an item at the export; 0 for none.
        neighbor_weight: how far they are lifted, in logits.
    """

    embedding_model: str
    reads_texts: bool
    known_items: int
    untrained_items: tuple[int, ...]
    neighbors: int
    neighbor_weight: float

    @classmethod
    def load(cls, model_dir: Path) -> "AdditionSettings":
        """Read ``new_items.json``.

        Raises:
            GenrecError: the model was exported without it, or its form is another.
        """
        path = model_dir / FOLDER / HEADER
        if not path.is_file():
            raise GenrecError(
                f"{model_dir}: holds no {FOLDER}/{HEADER}, so nothing can be added; export the model again"
            )
        try:
            return cls.model_validate(read_json(path))
        except ValueError as error:
            raise GenrecError(f"{path}: not what this version reads ({error}); export the model again") from error


def add_items(model_dir: Path, new: NewItems, vectors: np.ndarray, target: Path | None = None) -> np.ndarray:
    """Write a model folder that holds new items too; it appears whole, its manifest last, or not at all.

    Items withdrawn from ``model_dir`` are withdrawn there as well. Of two calls for one folder the second waits, and so
    does a call of :func:`genrec_core.bundle.withdrawn.withdraw`.

    Args:
        model_dir: an exported model; each of its files is verified.
        new: the items, none of which the model holds.
        vectors: their text vectors by the model's embedding model, float32 [m, dim], not normalised.
        target: the folder to write, which must not be there; None: ``model_dir`` is replaced.

    Returns:
        The codes of the new items with suffix, int32 [m, levels + 1].

    Raises:
        GenrecError: the model cannot take items, an item is there already or twice, a vector does not fit, or no code
            is left.
    """
    if target is not None and target.exists():
        raise GenrecError(f"{target}: is there already; name a new folder")
    with locked_place(model_dir):
        verify_manifest(model_dir)
        settings = AdditionSettings.load(model_dir)
        known = SemanticIds(
            read_array(model_dir / ITEM_IDS), read_array(model_dir / CODES), GraphSettings.load(model_dir).level_sizes
        )
        extended = extend_ids(known, new.item_ids.tolist(), vectors, model_dir / FOLDER, model_dir)
        codes = extended.codes[len(known.codes) :]
        with atomic_folder(target or model_dir.resolve()) as part:
            shutil.copytree(model_dir, part, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST, WITHDRAWN))
            np.save(part / ITEM_IDS, extended.item_ids, allow_pickle=False)
            np.save(part / CODES, extended.codes.astype(np.int32), allow_pickle=False)
            _append(part / POPULARITY, np.zeros(len(codes), dtype=np.int64))
            _add_vectors(part, settings, codes, l2_normalized(vectors))
            if (part / ITEMS).is_file():
                ItemTable.load(model_dir, known.item_ids).followed_by(new.table()).save(part)
            write_manifest(part)
            if (model_dir / WITHDRAWN).is_file():
                shutil.copyfile(model_dir / WITHDRAWN, part / WITHDRAWN)
    return codes


def texts_of(model_dir: Path, text_template: str) -> tuple[list[str], np.ndarray]:
    """The texts of a model's items, as its table of attributes gives them, and their vectors of length 1.

    The table may hold less of an item than what was embedded: a ready text and the description are not in it.

    Args:
        model_dir: an exported model that items can be added to.
        text_template: as the catalogue's.

    Returns:
        n texts and float32 [n, dim], of items that the table knows something of; none where the model has no table, or
        the template has a field that the table lacks.

    Raises:
        GenrecError: a file cannot be read.
    """
    vectors = read_array(model_dir / FOLDER / TEXT_VECTORS)
    parts, names = template_parts(text_template), ("title", "brand", "categories", "price")
    if not (model_dir / ITEMS).is_file() or any(field not in ("", *names) for _, field in parts):
        return [], vectors[:0]
    table = ItemTable.load(model_dir, read_array(model_dir / ITEM_IDS))
    columns = zip(*(getattr(table, name) for name in names), strict=True)
    texts = [render_text(parts, dict(zip(names, row, strict=True))) for row in columns]
    known = [row for row, text in enumerate(texts) if text]
    return [texts[row] for row in known], vectors[known]


def _add_vectors(part: Path, settings: AdditionSettings, codes: np.ndarray, text: np.ndarray) -> None:
    """Append what the encoder reads, the keys and the neighbours of items with these codes and normalised texts."""
    before = read_array(part / FOLDER / TEXT_VECTORS)
    every = np.concatenate([before, text])
    read = every if settings.reads_texts else every[:, :0]
    rows = learned_rows(read, settings.known_items, settings.untrained_items)
    feeds = {"rows": rows, "codes": codes.astype(np.int64), "vectors": read}
    feeds = {name: value[-len(codes) :] for name, value in feeds.items()}
    items, keys = open_graph(part / FOLDER / GRAPH, threads=None).run(["items", "keys"], feeds)
    _append(part / ITEM_VECTORS, items)
    _append(part / ITEM_KEYS, keys)
    if settings.neighbors:
        found = TextNeighbors(read_array(part / NEIGHBORS), read_array(part / NEIGHBOR_BONUS))
        found = found.extended(before, text, settings.neighbors, settings.neighbor_weight)
        np.save(part / NEIGHBORS, found.rows, allow_pickle=False)
        np.save(part / NEIGHBOR_BONUS, found.bonus, allow_pickle=False)
    np.save(part / FOLDER / TEXT_VECTORS, every, allow_pickle=False)


def _append(path: Path, values: np.ndarray) -> None:
    before = read_array(path)
    np.save(path, np.concatenate([before, values.astype(before.dtype)]), allow_pickle=False)
