"""Semantic IDs: one code an item, unique in the catalogue, and codes for items that come later. Loads without torch."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genrec_core.data.histories import Histories
from genrec_core.data.split import training_part
from genrec_core.embedding.item_embeddings import ITEM_IDS, ItemEmbeddings, require_finite_rows, text_model
from genrec_core.engines.engine import Engine, LocalEngine
from genrec_core.errors import GenrecError
from genrec_core.quantization.collaborative import CollaborativeMap, agreed, collaborative_vectors, fit_map
from genrec_core.quantization.files import load_array, load_fields, load_item_ids
from genrec_core.quantization.residual import ResidualQuantizer
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import (
    MANIFEST,
    atomic_folder,
    read_json,
    verify_manifest,
    write_json,
    write_manifest,
)

if TYPE_CHECKING:
    import polars as pl
    from torch.distributed import ProcessGroup

CODES, CODES_WITH_SUFFIX, SUMMARY = "codes.npy", "codes_with_suffix.npy", "summary.json"
FINGERPRINTS = "item_fingerprints.npy"
METHOD = 1  # goes up where the same settings and data give other codes than before
# Of the settings of earlier versions: those that are no more, and the values with which codes are still what they were.
_GONE = ("balance", "collisions", "pca_dims")
_TAKEN: dict[str, tuple[Any, ...]] = {"balance": (None,), "collisions": ("suffix",), "transform": ("none", "l2")}
_LEAST_SUFFIXES = 8
SHARD_ROWS = 8192  # 13 MB of vectors, a tenth of a second of a core


@dataclass(frozen=True)
class SemanticIds:
    """The code of every item.

    Args:
        item_ids: int64 [n], the data set's ids. In the order of the catalogue; items assigned later follow behind.
        codes: int32 [n, levels + 1]; the last level is the suffix, which tells apart items that share all others.
        level_sizes: vocabulary by level, levels + 1 numbers. The suffix's has room for items to come.
    """

    item_ids: NDArray[np.int64]
    codes: NDArray[np.int32]
    level_sizes: tuple[int, ...]

    @classmethod
    def load(cls, folder: Path) -> "SemanticIds":
        """Read a folder of semantic IDs.

        Raises:
            GenrecError: a file is missing or damaged, shapes do not fit, an item or a code appears twice, the items of
                the catalogue do not ascend, or a code lies outside its vocabulary; or :func:`settings_of` refuses it.
        """
        level_sizes, fitted = load_fields(folder / SUMMARY, "level_sizes", "fitted_items")
        settings_of(folder)
        item_ids = load_item_ids(folder / ITEM_IDS)
        codes = load_array(folder / CODES_WITH_SUFFIX).astype(np.int32)
        found = cls(item_ids, codes, tuple(level_sizes))
        found._validate(folder, fitted)
        return found

    def rows_of(self, item_ids: Sequence[int]) -> NDArray[np.int64]:
        """The rows of items.

        Raises:
            GenrecError: an item has no semantic ID.
        """
        row_of = {item: row for row, item in enumerate(self.item_ids.tolist())}
        unknown = [item for item in item_ids if item not in row_of]
        if unknown:
            raise GenrecError(
                f"item {unknown[0]} has no semantic ID ({len(unknown)} such items); give it one with genrec assign-ids"
            )
        return np.array([row_of[item] for item in item_ids], dtype=np.int64)

    def _validate(self, folder: Path, fitted: int) -> None:
        if self.codes.shape != (len(self.item_ids), len(self.level_sizes)):
            raise GenrecError(
                f"{folder / CODES_WITH_SUFFIX}: shape {self.codes.shape}, but there are {len(self.item_ids)} items and "
                f"{len(self.level_sizes)} levels; build the semantic IDs again"
            )
        outside = np.argwhere((self.codes < 0) | (self.codes >= np.array(self.level_sizes)))
        if outside.size:
            row, level = outside[0]
            raise GenrecError(
                f"{folder / CODES_WITH_SUFFIX}: code {self.codes[row, level]} of item {self.item_ids[row]} at level "
                f"{level} is outside 0..{self.level_sizes[level] - 1}; build the semantic IDs again"
            )
        _require_once(self.item_ids[:, None], self.item_ids, folder / ITEM_IDS, "item id")
        _require_once(self.codes, self.item_ids, folder / CODES_WITH_SUFFIX, "code")
        if (np.diff(self.item_ids[:fitted]) < 0).any():
            raise GenrecError(f"{folder / ITEM_IDS}: items do not ascend as in the catalogue; build them again")


def build_semantic_ids(
    embeddings_folder: Path,
    settings: SemanticIdSettings,
    target: Path,
    group: "ProcessGroup | None" = None,
    histories: "pl.DataFrame | None" = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Fit the codebooks on all items and give each item a code no other item has.

    Args:
        embeddings_folder: the folder of the item embeddings.
        settings: see :class:`SemanticIdSettings`.
        target: the folder to write, replaced whole or not at all; rank 0 writes it.
        group: torchrun ranks that share the work; None: this process alone.
        histories: whole histories, ``user_id`` and ``item_ids``, whose training part says what is bought together;
            None, or a ``collaborative_weight`` of 0: the codes are made of the texts alone.
        engine: finds the codes once the codebooks are fitted; None: this process.

    Returns:
        The content of ``summary.json``; see :func:`summarize`.

    Raises:
        GenrecError: see :meth:`ResidualQuantizer.fit`; a history holds an item without an embedding.

    Source: Rajput et al. 2023 (TIGER), section 3.1, collisions.
    """
    embeddings = ItemEmbeddings.load(embeddings_folder)
    vectors, collaborative = embeddings.raw, None
    if histories is not None and settings.collaborative_weight:
        vectors, collaborative = _with_collaborative_part(embeddings, histories, settings, group)
    quantizer = ResidualQuantizer.fit(vectors, settings, group)
    codes = find_codes(quantizer, vectors, engine=engine)  # [n, levels]
    codes_with_suffix = np.column_stack([codes, rank_within_group(codes)])  # [n, levels + 1]
    level_sizes = [*quantizer.sizes, suffix_vocabulary(int(codes_with_suffix[:, -1].max()))]
    before, *errors = quantizer.errors_by_level(vectors, codes)
    summary = summarize(codes_with_suffix, level_sizes) | {
        "fitted_items": len(codes),
        "dim": embeddings.raw.shape[1],
        "collaborative_dims": 0 if collaborative is None else collaborative.weights.shape[1],
        "clustered_dim": quantizer.transform.dim,
        "mean_squared_error": errors,
        "reconstruction_error": [error / before if before > 0 else 0.0 for error in errors],
        "iterations": list(quantizer.iterations),
        "settings": stored_settings(settings),
        "fit": {
            "method": METHOD,
            "text_model": text_model(embeddings_folder),
            "items": len(codes),
            "histories": histories_version(histories, settings),
            "assigned": 0,
            "removed": 0,
        },
    }
    if _is_first(group):
        with atomic_folder(target) as part:
            quantizer.save(part)
            if collaborative is not None:
                collaborative.save(part)
            _write_codes(part, embeddings.item_ids, codes_with_suffix, summary)
            np.save(part / FINGERPRINTS, fingerprints(embeddings.raw), allow_pickle=False)
    return summary


def stored_settings(settings: SemanticIdSettings) -> dict[str, Any]:
    """What of the settings makes the codes; the rest says when they are made again."""
    return settings.model_dump(mode="json", exclude={"refit", "refit_share"})


def settings_of(folder: Path) -> dict[str, Any]:
    """What :func:`stored_settings` gave where the codes in ``folder`` were made.

    Raises:
        GenrecError: an option made them that this version does not have.
    """
    (stored,) = load_fields(folder / SUMMARY, "settings")
    for name, taken in _TAKEN.items():
        if name in stored and stored[name] not in taken:
            raise GenrecError(
                f"{folder / SUMMARY}: made with {name}={stored[name]}, which this version does not have; "
                "build the semantic IDs again with this version"
            )
    return {name: value for name, value in stored.items() if name not in _GONE}


def histories_version(histories: "pl.DataFrame | None", settings: SemanticIdSettings) -> str | None:
    """A hash of what the codes take from the histories; None where that is nothing."""
    if histories is None or not settings.collaborative_weight:
        return None
    items = histories["item_ids"].explode().drop_nulls().unique().sort().to_numpy()
    trained = training_part(Histories.from_frame(histories, items))
    digest = hashlib.sha256(items[trained.rows].astype("<i8").tobytes())
    digest.update(trained.offsets.astype("<i8").tobytes())
    return digest.hexdigest()


def fingerprints(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A hash of each row, uint64 [n] of float32 [n, dim]: an item whose text is the same has the same one."""
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    hashes = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return np.frombuffer(hashes, dtype="<u8")


def assign_ids(
    folder: Path,
    item_ids: Sequence[int],
    vectors: NDArray[np.float32],
    target: Path | None = None,
    engine: Engine | None = None,
) -> SemanticIds:
    """Give new items codes from the stored codebooks and the next free suffix, leaving all existing codes as they are.

    Args:
        folder: the semantic IDs so far.
        item_ids: ids of the m new items.
        vectors: float32 [m, dim], of the embedding model that the codebooks were fitted on, not normalised.
        target: the folder to write, with the new items behind the old; None: ``folder`` itself.
        engine: finds the codes; None: this process. The suffixes are counted here.

    Returns:
        All semantic IDs, old and new.

    Raises:
        GenrecError: an id is there already or twice, lengths differ, a vector does not fit, or no suffix is left.
    """
    known = SemanticIds.load(folder)
    target = target or folder
    if target.resolve() != folder.resolve() and target.exists() and any(target.iterdir()):
        raise GenrecError(f"{target}: exists and is not empty; give another folder, or remove it first")
    extended = extend_ids(known, item_ids, vectors, folder, folder, engine)
    fit = {}
    printed: NDArray[np.uint64] | None = None
    if (folder / FINGERPRINTS).is_file():
        printed = np.concatenate([load_array(folder / FINGERPRINTS).astype(np.uint64), fingerprints(vectors)])
        (before,) = load_fields(folder / SUMMARY, "fit")
        fit = {"fit": before | {"assigned": before["assigned"] + len(item_ids)}}
    write_updated(folder, target, extended, printed, fit)
    return extended


def extend_ids(
    known: SemanticIds,
    item_ids: Sequence[int],
    vectors: NDArray[np.float32],
    codebooks: Path,
    source: Path,
    engine: Engine | None = None,
) -> SemanticIds:
    """All semantic IDs, old and new; see :func:`assign_ids`.

    Args:
        known: the semantic IDs so far.
        item_ids: ids of the m new items.
        vectors: float32 [m, dim], not normalised.
        codebooks: the folder that the quantiser was saved in.
        source: where ``known`` is from, for errors.
        engine: as there.

    Raises:
        GenrecError: as :func:`assign_ids`.
    """
    new_ids = _require_new(known, item_ids, source)
    if len(new_ids) != len(vectors):
        raise GenrecError(f"{len(new_ids)} new items but {len(vectors)} vectors; give one vector an item")
    vectors = np.asarray(vectors, dtype=np.float32)
    require_finite_rows(vectors, "item vectors")
    codes = find_codes(ResidualQuantizer.load(codebooks), vectors, CollaborativeMap.load(codebooks), engine)
    suffixes = next_suffixes(known, codes, new_ids)
    return SemanticIds(
        np.concatenate([known.item_ids, new_ids]),
        np.concatenate([known.codes, np.column_stack([codes, suffixes])]),
        known.level_sizes,
    )


def find_codes(
    quantizer: ResidualQuantizer,
    vectors: NDArray[np.float32],
    collaborative: CollaborativeMap | None = None,
    engine: Engine | None = None,
) -> NDArray[np.int32]:
    """The codes int32 [n, levels] of vectors float32 [n, dim], a shard of rows at a time.

    Args:
        quantizer: the codebooks.
        vectors: of the width that was fitted, or of the texts alone where ``collaborative`` adds the rest.
        collaborative: what items are expected to be bought with, from their texts; None: nothing is added.
        engine: computes the shards; None: this process.

    Raises:
        GenrecError: as :meth:`ResidualQuantizer.encode`.
    """
    shards = (np.ascontiguousarray(vectors[row : row + SHARD_ROWS]) for row in range(0, len(vectors), SHARD_ROWS))
    found = (engine or LocalEngine()).map(encode_rows, (quantizer, collaborative), shards)
    return np.concatenate([np.empty((0, len(quantizer.sizes)), dtype=np.int32), *found])


def encode_rows(
    fitted: tuple[ResidualQuantizer, CollaborativeMap | None], vectors: NDArray[np.float32]
) -> NDArray[np.int32]:
    """The codes int32 [rows, levels] of one shard, each row's the same in any company."""
    quantizer, collaborative = fitted
    return quantizer.encode(vectors if collaborative is None else collaborative.extend(vectors))


def _with_collaborative_part(
    embeddings: ItemEmbeddings, histories: "pl.DataFrame", settings: SemanticIdSettings, group: "ProcessGroup | None"
) -> tuple[NDArray[np.float32], CollaborativeMap]:
    """What is clustered, float32 [n, dim + dims], and how it is made for items without histories."""
    from genrec_core.quantization.processes import RowShare

    require_finite_rows(embeddings.raw, "item vectors")
    trained = training_part(Histories.from_frame(histories, embeddings.item_ids))
    share = RowShare.of(len(embeddings.raw), group)
    known = agreed(collaborative_vectors(trained, len(embeddings.raw), settings), share)
    found = fit_map(embeddings.raw, known, settings.collaborative_weight)
    return found.extend(embeddings.raw, known), found


def rank_within_group(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """How many earlier rows have the same code: int32 [n] of ``codes`` [n, levels]; 0 for the first of its kind."""
    _, group, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(group.ravel(), kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    ranks = np.empty(len(codes), dtype=np.int32)
    ranks[order] = np.arange(len(codes)) - np.repeat(starts, counts)
    return ranks


def suffix_vocabulary(deepest: int) -> int:
    """Size of the suffix level: twice what is in use and at least 16, a multiple of 8, so that new items find room.

    Args:
        deepest: the largest suffix in use.
    """
    return -(-2 * max(deepest + 1, _LEAST_SUFFIXES) // 8) * 8


def summarize(codes: NDArray[np.int32], level_sizes: Sequence[int]) -> dict[str, Any]:
    """What can be told from codes int32 [n, levels + 1] alone.

    Returns:
        ``items``; ``level_sizes``; by level ``codebook_use`` (share of centroids that some item has),
        ``codebook_entropy_bits`` and ``codebook_perplexity`` (2 to its power); ``unique_prefixes`` by length 1..levels;
        ``collided_items`` (that share all levels with another) and ``deepest_suffix``.
    """
    levels = codes.shape[1] - 1
    counts = [np.bincount(codes[:, level], minlength=level_sizes[level]) for level in range(levels)]
    entropy = [_entropy_bits(count) for count in counts]
    _, sharing = np.unique(codes[:, :levels], axis=0, return_counts=True)
    return {
        "items": len(codes),
        "level_sizes": [int(size) for size in level_sizes],
        "codebook_use": [float((count > 0).mean()) for count in counts],
        "codebook_entropy_bits": entropy,
        "codebook_perplexity": [2.0**bits for bits in entropy],
        "unique_prefixes": [len(np.unique(codes[:, : level + 1], axis=0)) for level in range(levels)],
        "collided_items": int(sharing[sharing > 1].sum()),
        "deepest_suffix": int(codes[:, -1].max()),
    }


def _entropy_bits(counts: NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return abs(float(-(shares * np.log2(shares)).sum()))


def _is_first(group: "ProcessGroup | None") -> bool:
    if group is None:
        return True
    from torch.distributed import get_rank

    return get_rank(group) == 0


def _write_codes(folder: Path, item_ids: NDArray[np.int64], codes: NDArray[np.int32], summary: dict[str, Any]) -> None:
    np.save(folder / CODES, np.ascontiguousarray(codes[:, :-1], dtype=np.int32), allow_pickle=False)
    np.save(folder / CODES_WITH_SUFFIX, codes.astype(np.int32), allow_pickle=False)
    write_json(folder / ITEM_IDS, item_ids.tolist())
    write_json(folder / SUMMARY, summary)


def write_updated(
    folder: Path,
    target: Path,
    ids: SemanticIds,
    printed: NDArray[np.uint64] | None,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write other codes over the same codebooks.

    Args:
        folder: the semantic IDs so far; a manifest there is checked, and the new folder gets one.
        target: the folder to write; may be ``folder``.
        ids: the codes.
        printed: the items' :func:`fingerprints`, uint64 [n]; None where ``folder`` has none.
        facts: what else changes in ``summary.json``.

    Returns:
        The content of ``summary.json``.
    """
    summary: dict[str, Any] = read_json(folder / SUMMARY) | summarize(ids.codes, ids.level_sizes) | facts
    listed = (folder / MANIFEST).is_file()
    if listed:
        verify_manifest(folder)
    with atomic_folder(target) as part:
        shutil.copytree(folder, part, dirs_exist_ok=True)
        _write_codes(part, ids.item_ids, ids.codes, summary)
        if printed is not None:
            np.save(part / FINGERPRINTS, printed, allow_pickle=False)
        if listed:
            write_manifest(part)
    return summary


def _require_new(known: SemanticIds, item_ids: Sequence[int], folder: Path) -> NDArray[np.int64]:
    new_ids = np.asarray(item_ids)
    if new_ids.ndim != 1 or not (np.issubdtype(new_ids.dtype, np.integer) or new_ids.size == 0):
        raise GenrecError("new item ids are not a list of integers; give the data set's integer ids")
    new_ids = new_ids.astype(np.int64)
    there = np.intersect1d(new_ids, known.item_ids)
    if there.size:
        raise GenrecError(
            f"item {there[0]} has a semantic ID already in {folder} ({there.size} such items); "
            "leave out the items that are there, their codes do not change"
        )
    _require_once(new_ids[:, None], new_ids, "the new items", "item id")
    return new_ids


def next_suffixes(known: SemanticIds, codes: NDArray[np.int32], new_ids: NDArray[np.int64]) -> NDArray[np.int32]:
    """The next free suffix of each new item's code, in the order of the new items.

    Raises:
        GenrecError: the suffix vocabulary has no more.
    """
    free: dict[bytes, int] = {}
    for code, suffix in zip(known.codes[:, :-1], known.codes[:, -1].tolist(), strict=True):
        key = code.tobytes()
        free[key] = max(free.get(key, 0), suffix + 1)
    suffixes = np.empty(len(codes), dtype=np.int32)
    for row, code in enumerate(codes):
        suffixes[row] = free.get(code.tobytes(), 0)
        free[code.tobytes()] = int(suffixes[row]) + 1
        if suffixes[row] >= known.level_sizes[-1]:
            raise GenrecError(
                f"item {new_ids[row]}: code {tuple(code.tolist())} is shared by {suffixes[row]} items and the suffix "
                f"vocabulary holds {known.level_sizes[-1]}; build new semantic IDs with a larger codebook_size or "
                "more levels, and train on them"
            )
    return suffixes


def _require_once(keys: NDArray[Any], item_ids: NDArray[np.int64], source: Path | str, what: str) -> None:
    """Refuse two equal rows of ``keys`` [n, m], naming their items."""
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse.ravel()] != np.arange(len(keys)))
    if again.size:
        row = int(again[0])
        other = int(first[inverse.ravel()[row]])
        raise GenrecError(
            f"{source}: {what} {tuple(keys[row].tolist())} is there twice, for item {item_ids[other]} (row {other}) "
            f"and item {item_ids[row]} (row {row}); each must be there once"
        )
