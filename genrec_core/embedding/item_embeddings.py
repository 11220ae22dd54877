"""The item vectors on disk, and which trained item a new one borrows its learned vector from. Needs no torch."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec_core.data.ids import id_array
from genrec_core.data.item_text import ItemFields
from genrec_core.errors import GenrecError
from genrec_core.settings import EmbeddingSettings
from genrec_core.storage.artifacts import atomic_folder, read_array, read_json, write_json

RAW, L2NORM = "item_embeddings_raw.npy", "item_embeddings_l2norm.npy"
ITEM_IDS, ITEM_TEXT, STATS = "item_ids.json", "item_text.json", "embedding_stats.json"
_MADE_BY = ("model", "max_tokens", "int8")  # the settings on which a text's vector depends
_KEY_DIMS, _KEY_DECIMALS = 16, 3  # vectors with the same first components, rounded, are compared in full
_NEW_ITEMS_AT_ONCE = 1024
_ROWS_AT_ONCE = 1 << 13  # float64 copies of 8,192 vectors are 25 MB, of a million 3 GB
_SAME = 1e-5  # largest difference of components of the same vector; padding alone changes them by 1e-7


@dataclass(frozen=True)
class ItemEmbeddings:
    """Item vectors in the order of the catalogue."""

    item_ids: NDArray[Any]  # int64 or text [n], ascending
    raw: NDArray[np.float32]  # [n, dim], as the model gives them
    l2norm: NDArray[np.float32]  # [n, dim], each of length 1 (a zero vector stays zero)

    @classmethod
    def load(cls, folder: Path) -> "ItemEmbeddings":
        """Read the folder that :func:`write_item_embeddings` wrote; the vectors are mapped, not copied."""
        item_ids = require_catalog_order(read_json(folder / ITEM_IDS), folder / ITEM_IDS)
        raw, l2norm = (_read_vectors(folder / name, len(item_ids)) for name in (RAW, L2NORM))
        if raw.shape != l2norm.shape:
            raise GenrecError(f"{folder}: {RAW} is {raw.shape} but {L2NORM} is {l2norm.shape}; embed the items again")
        return cls(item_ids, raw, l2norm)


def write_item_embeddings(
    folder: Path,
    item_ids: NDArray[Any],
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    model: str,
    seconds: float,
    settings: EmbeddingSettings | None = None,
    fields: ItemFields | None = None,
) -> dict[str, Any]:
    """Write the item embeddings to ``folder``, which is replaced; returns the content of ``embedding_stats.json``.

    Args:
        item_ids: int64 or text [n], ascending.
        vectors: float32 [n, dim], not normalised.
        seconds: how long the embedding took.
        settings: of the embedding; None if unknown, then no later embedding takes vectors from here.
        fields: what the texts are made of, so that those of new items are made alike; None: as of P5 data.
    """
    ids = require_catalog_order(item_ids, folder / ITEM_IDS)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if not len(ids) == len(texts) == len(vectors):
        raise GenrecError(f"{folder}: {len(ids)} ids, {len(texts)} texts and {len(vectors)} vectors; embed every item")
    require_finite_rows(vectors, folder / RAW)
    stats = {
        "model": model,
        "items": len(texts),
        "dim": int(vectors.shape[1]),
        "seconds": round(seconds, 3),
        "distinct_texts": len(set(texts)),
        "zero_vectors": int((~vectors.any(axis=1)).sum()),
        "max_tokens": settings and settings.max_tokens,
        "int8": settings and settings.int8,
        "item_fields": (fields or ItemFields()).model_dump(mode="json"),
    }
    with atomic_folder(folder) as part:
        np.save(part / RAW, vectors, allow_pickle=False)
        np.save(part / L2NORM, l2_normalized(vectors), allow_pickle=False)
        write_json(part / ITEM_IDS, ids.tolist())
        write_json(part / ITEM_TEXT, list(texts))
        write_json(part / STATS, stats)
    return stats


def text_model(folder: Path) -> str:
    """The model that made the vectors in ``folder``."""
    return str(read_json(folder / STATS)["model"])


def item_fields(folder: Path) -> ItemFields:
    """What the texts in ``folder`` are made of."""
    return ItemFields.model_validate(read_json(folder / STATS).get("item_fields", {}))


def text_settings(folder: Path) -> EmbeddingSettings:
    """The settings that made the vectors in ``folder``, for further texts; what it does not name is as by default."""
    stats = read_json(folder / STATS)
    return EmbeddingSettings(**{name: stats[name] for name in _MADE_BY if stats.get(name) is not None})


def vectors_by_text(folder: Path, settings: EmbeddingSettings) -> dict[str, NDArray[np.float32]]:
    """The vectors of an earlier embedding in ``folder``: text to vector float32 [dim], as the model gave it.

    There are none if another model, cut or precision made them, or if the model is a folder, which may have changed.
    """
    stats, known = read_json(folder / STATS), text_settings(folder)
    same = all(getattr(known, name) == getattr(settings, name) for name in _MADE_BY)
    if not same or stats.get("max_tokens") is None or Path(settings.model).expanduser().is_dir():
        return {}
    return dict(zip(read_json(folder / ITEM_TEXT), ItemEmbeddings.load(folder).raw, strict=True))


def l2_normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row [n, dim] divided by its length, which is taken in float64; a zero row stays zero."""
    normalized = np.zeros(vectors.shape, dtype=np.float32)
    for first in range(0, len(vectors), _ROWS_AT_ONCE):
        rows = vectors[first : first + _ROWS_AT_ONCE].astype(np.float64)
        lengths = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
        np.divide(rows, lengths, out=rows, where=lengths > 0)
        normalized[first : first + _ROWS_AT_ONCE] = rows
    return normalized


def rows_not_told_apart(texts: Sequence[str], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Ascending rows int64 [m] whose vector is also that of a different text, as if the model knows no letter of both.

    Texts that differ only by case and white space count as the same. ``vectors`` [n, dim] have length 1 or 0.
    """
    keys = np.round(vectors[:, :_KEY_DIMS], _KEY_DECIMALS) + 0.0  # the sum makes -0 a 0
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    leader = first[group.reshape(-1)]  # [n], the first row with the same key
    shared = np.flatnonzero(np.bincount(leader, minlength=len(texts))[leader] > 1)
    same = shared[np.abs(vectors[shared] - vectors[leader[shared]]).max(axis=1, initial=0) < _SAME]
    texts_of: dict[int, set[str]] = {}
    for row in same.tolist():
        texts_of.setdefault(int(leader[row]), set()).add(" ".join(texts[row].casefold().split()))
    return np.array([row for row in same.tolist() if len(texts_of[int(leader[row])]) > 1], dtype=np.int64)


def learned_rows(
    vectors: np.ndarray,
    known_items: int,
    untrained_items: Collection[int],
    first: int = 0,
) -> np.ndarray:
    """The catalogue row whose learned vector each item uses, int64 [n_items].

    A trained item has its own. A new item takes that of the trained item with the most similar text, so it is
    recommended to that item's users. In a model that reads no texts, a new item gets the row of unknown items.

    Args:
        vectors: text vectors by catalogue row, float32 [n_items, dim]; no columns if the model reads no texts.
        known_items, untrained_items: see :class:`genrec_core.tiger.model.TigerConfig`.
        first: only the rows from this one on are asked for; the result holds no others.
    """
    rows = np.arange(len(vectors), dtype=np.int64)
    unknown = rows >= known_items
    unknown[list(untrained_items)] = True
    if not vectors.shape[1] or unknown.all():
        return np.where(unknown, known_items, rows)[first:]
    trained = rows[~unknown]
    unknown[:first] = False
    text = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=np.finfo(np.float32).tiny)
    trained_text, new = text[trained].T, rows[unknown]
    for begin in range(0, len(new), _NEW_ITEMS_AT_ONCE):
        chunk = new[begin : begin + _NEW_ITEMS_AT_ONCE]
        rows[chunk] = trained[(text[chunk] @ trained_text).argmax(axis=1)]
    return rows[first:]


def require_catalog_order(item_ids: Any, source: Path) -> NDArray[Any]:
    """``item_ids`` as int64 or text [n]; they must be in ascending order without repeats."""
    if not isinstance(item_ids, list | np.ndarray):
        raise GenrecError(f"{source}: item ids are not a list; rebuild it from the catalogue")
    ids = id_array(item_ids, source)
    wrong = np.flatnonzero(ids[1:] <= ids[:-1])
    if wrong.size:
        at = int(wrong[0]) + 1
        raise GenrecError(f"{source}: item {ids[at]} in row {at} follows item {ids[at - 1]}; ids must strictly ascend")
    return ids


def require_finite_rows(vectors: NDArray[np.float32], source: Path | str, texts: Sequence[str] = ()) -> None:
    """Refuse vectors [n, dim] from ``source`` that hold NaN or infinity; the error names the first row, or its text."""
    if len(broken := np.flatnonzero(~np.isfinite(vectors).all(axis=1))):
        row = int(broken[0])
        remedy = f" ({texts[row][:80]!r}); use another model or clean that text" if texts else "; embed it again"
        raise GenrecError(f"{source}: {len(broken)} rows are not finite, the first is row {row}{remedy}")


def _read_vectors(path: Path, rows: int) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = read_array(path, "c")
    if vectors.ndim != 2 or len(vectors) != rows or vectors.dtype != np.float32:
        shape = f"{vectors.dtype} {vectors.shape}, but {ITEM_IDS} lists {rows} items"
        raise GenrecError(f"{path}: {shape} and float32 [items, dim] is wanted; embed the items again")
    return vectors
