"""Semantic IDs: one code for each item, unique in the catalogue; the files of a folder of semantic IDs.

Items with equal codes of the quantiser get different suffixes. A damaged or unfit folder raises GenrecError.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec_core.data.ids import id_array
from genrec_core.embedding.item_embeddings import ITEM_IDS
from genrec_core.errors import GenrecError
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import (
    MANIFEST,
    atomic_folder,
    read_array,
    read_fields,
    read_json,
    verify_manifest,
    write_json,
    write_manifest,
)

CODES, CODES_WITH_SUFFIX, SUMMARY = "codes.npy", "codes_with_suffix.npy", "summary.json"
FINGERPRINTS = "item_fingerprints.npy"
_LEAST_SUFFIXES = 8
METHOD = 1  # increase it when the same settings and data give other codes than before


@dataclass(frozen=True)
class SemanticIds:
    """The code of every item. Catalogue items come first and ascend; items assigned later follow."""

    item_ids: NDArray[Any]  # the data set's ids, int64 or text [n]
    codes: NDArray[np.int32]  # [n, levels + 1]; the last level is the suffix, which tells items with equal codes apart
    level_sizes: tuple[int, ...]  # vocabulary size of each level; that of the suffix has room for new items

    @classmethod
    def load(cls, folder: Path) -> "SemanticIds":
        """Read a folder of semantic IDs, and check it."""
        level_sizes, fitted = read_fields(folder / SUMMARY, "level_sizes", "fitted_items")
        item_ids = read_json(folder / ITEM_IDS)
        if not isinstance(item_ids, list):
            raise GenrecError(f"{folder / ITEM_IDS}: not a list of item ids; build the semantic IDs again")
        codes = read_array(folder / CODES_WITH_SUFFIX).astype(np.int32)
        ids = cls(id_array(item_ids, folder / ITEM_IDS), codes, tuple(level_sizes))
        ids._validate(folder, fitted)
        return ids

    def save(self, folder: Path, summary: dict[str, Any], hashes: NDArray[np.uint64]) -> None:
        """Write codes, item ids, ``summary`` and the items' :func:`fingerprints`."""
        np.save(folder / CODES, np.ascontiguousarray(self.codes[:, :-1], dtype=np.int32), allow_pickle=False)
        np.save(folder / CODES_WITH_SUFFIX, self.codes.astype(np.int32), allow_pickle=False)
        write_json(folder / ITEM_IDS, self.item_ids.tolist())
        write_json(folder / SUMMARY, summary)
        np.save(folder / FINGERPRINTS, hashes, allow_pickle=False)

    def _validate(self, folder: Path, fitted: int) -> None:
        if self.codes.shape != (len(self.item_ids), len(self.level_sizes)):
            expected = f"{len(self.item_ids)} items and {len(self.level_sizes)} levels"
            raise GenrecError(
                f"{folder / CODES_WITH_SUFFIX}: shape {self.codes.shape}, but there are {expected}; build it again"
            )
        outside = np.argwhere((self.codes < 0) | (self.codes >= np.array(self.level_sizes)))
        if outside.size:
            row, level = outside[0]
            raise GenrecError(
                f"{folder / CODES_WITH_SUFFIX}: code {self.codes[row, level]} of item {self.item_ids[row]} at level "
                f"{level} is outside 0..{self.level_sizes[level] - 1}; build the semantic IDs again"
            )
        require_once(self.item_ids[:, None], self.item_ids, folder / ITEM_IDS, "item id")
        require_once(self.codes, self.item_ids, folder / CODES_WITH_SUFFIX, "code")
        if (self.item_ids[1:fitted] < self.item_ids[: max(fitted - 1, 0)]).any():
            raise GenrecError(f"{folder / ITEM_IDS}: items do not ascend as in the catalogue; build them again")


class NoSuffixLeftError(GenrecError):
    """All suffixes of a code are in use."""


def suffixes_of(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Suffix of each row of ``codes`` [n, levels], int32 [n]: the number of earlier rows with the same code."""
    _, group, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(group.ravel(), kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    suffixes = np.empty(len(codes), dtype=np.int32)
    suffixes[order] = np.arange(len(codes)) - np.repeat(starts, counts)
    return suffixes


def suffix_vocabulary(largest: int) -> int:
    """Vocabulary size of the suffix level if ``largest`` is the largest suffix in use.

    Twice the suffixes in use and at least 16, rounded up to a multiple of 8: new items need free suffixes.
    """
    return -(-2 * max(largest + 1, _LEAST_SUFFIXES) // 8) * 8


def next_suffixes(
    known: NDArray[np.int32], codes: NDArray[np.int32], item_ids: NDArray[Any], vocabulary: int
) -> NDArray[np.int32]:
    """The next free suffix of each new code, in order, int32 [m].

    Args:
        known: codes with suffix of the known items, int32 [n, levels + 1].
        codes, item_ids: of the new items, int32 [m, levels], and int64 or text [m].
        vocabulary: number of suffixes that there are.
    """
    free: dict[tuple[int, ...], int] = {}
    for *code, suffix in known.tolist():
        free[tuple(code)] = max(free.get(tuple(code), 0), suffix + 1)
    suffixes = np.empty(len(codes), dtype=np.int32)
    for row, code in enumerate(map(tuple, codes.tolist())):
        suffix = free.get(code, 0)
        if suffix >= vocabulary:
            raise NoSuffixLeftError(
                f"item {item_ids[row]}: code {code} is shared by {suffix} items and the suffix vocabulary holds "
                f"{vocabulary}; build new semantic IDs with a larger codebook_size or more levels, and train on them"
            )
        suffixes[row], free[code] = suffix, suffix + 1
    return suffixes


def summarize(codes: NDArray[np.int32], level_sizes: Sequence[int]) -> dict[str, Any]:
    """Statistics of codes int32 [n, levels + 1]; ``collided_items`` share all levels but the suffix with another."""
    levels = codes.shape[1] - 1
    counts = [np.bincount(codes[:, level], minlength=level_sizes[level]) for level in range(levels)]
    _, sharing = np.unique(codes[:, :levels], axis=0, return_counts=True)
    return {
        "items": len(codes),
        "level_sizes": [int(size) for size in level_sizes],
        "codebook_use": [float((count > 0).mean()) for count in counts],
        "codebook_entropy_bits": [_entropy_bits(count) for count in counts],
        "unique_prefixes": [len(np.unique(codes[:, : level + 1], axis=0)) for level in range(levels)],
        "collided_items": int(sharing[sharing > 1].sum()),
        "deepest_suffix": int(codes[:, -1].max()),
    }


def _entropy_bits(counts: NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return abs(float((shares * np.log2(shares)).sum()))


def stored_settings(settings: SemanticIdSettings) -> dict[str, Any]:
    """The settings that the codes depend on."""
    return settings.model_dump(mode="json", exclude={"refit", "refit_share"})


def fingerprints(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A hash of each row of ``vectors`` float32 [n, dim], uint64 [n]; it changes when the text of an item changes."""
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    hashes = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return np.frombuffer(hashes, dtype="<u8")


def write_updated(
    folder: Path, target: Path, ids: SemanticIds, hashes: NDArray[np.uint64], facts: dict[str, Any]
) -> dict[str, Any]:
    """Write other codes over the codebooks in ``folder`` to ``target``, which may be ``folder``.

    A manifest in ``folder`` is verified, and ``target`` gets one. ``facts`` change ``summary.json``, which is returned.
    """
    summary: dict[str, Any] = read_json(folder / SUMMARY) | summarize(ids.codes, ids.level_sizes) | facts
    listed = (folder / MANIFEST).is_file()
    if listed:
        verify_manifest(folder)
    with atomic_folder(target) as part:
        pages = shutil.ignore_patterns("*.html")  # of the codes before
        shutil.copytree(folder, part, dirs_exist_ok=True, ignore=pages)
        ids.save(part, summary, hashes)
        if listed:
            write_manifest(part)
    return summary


def require_once(keys: NDArray[Any], item_ids: NDArray[Any], source: Path | str, what: str) -> None:
    """Raise GenrecError if two rows of ``keys`` [n, m] are equal."""
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse.ravel()] != np.arange(len(keys)))
    if again.size:
        row = int(again[0])
        other = int(first[inverse.ravel()[row]])
        raise GenrecError(
            f"{source}: {what} {tuple(keys[row].tolist())} appears twice, for item {item_ids[other]} (row {other}) "
            f"and item {item_ids[row]} (row {row}); build the semantic IDs again, or give each item once"
        )
