"""Semantic IDs of new items and of a changed catalogue: known items keep their codes, others get some of the codebooks.

Codes are the words of the model. If the codebooks were fitted again, all codes would change their meaning and the model
would have to be trained again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genrec_core.data.ids import AnyId, are_text, id_array
from genrec_core.embedding.item_embeddings import ItemEmbeddings, text_model
from genrec_core.engines.engine import Engine
from genrec_core.errors import GenrecError
from genrec_core.quantization.build import build_semantic_ids, histories_version
from genrec_core.quantization.collaborative import CollaborativeMap
from genrec_core.quantization.quantizer import Quantizer, find_codes
from genrec_core.quantization.semantic_ids import (
    FINGERPRINTS,
    METHOD,
    SUMMARY,
    NoSuffixLeftError,
    SemanticIds,
    fingerprints,
    next_suffixes,
    require_once,
    stored_settings,
    write_updated,
)
from genrec_core.settings import SemanticIdSettings
from genrec_core.storage.artifacts import MANIFEST, read_array, read_fields, verify_manifest

if TYPE_CHECKING:
    import polars as pl


def assign_ids(
    folder: Path,
    item_ids: Sequence[AnyId],
    vectors: NDArray[np.float32],
    target: Path | None = None,
    engine: Engine | None = None,
) -> SemanticIds:
    """Give m new items codes from the stored codebooks and the next free suffix; returns all semantic IDs.

    Args:
        folder: the existing semantic IDs.
        vectors: float32 [m, dim], not normalised, of the embedding model that the codebooks were fitted on.
        target: the folder to write, with the new items behind the old ones; None: ``folder`` itself.
    """
    target = target or folder
    if target.resolve() != folder.resolve() and target.exists() and any(target.iterdir()):
        raise GenrecError(f"{target}: exists and is not empty; give another folder, or remove it first")
    extended = extend_ids(SemanticIds.load(folder), item_ids, vectors, folder, folder, engine)
    (fit,) = read_fields(folder / SUMMARY, "fit")
    hashes = np.concatenate([read_array(folder / FINGERPRINTS), fingerprints(vectors)])
    facts = {"fit": fit | {"assigned": fit["assigned"] + len(item_ids)}}
    write_updated(folder, target, extended, hashes, facts)
    return extended


def extend_ids(
    known: SemanticIds,
    item_ids: Sequence[AnyId],
    vectors: NDArray[np.float32],
    codebooks: Path,
    source: Path,
    engine: Engine | None = None,
) -> SemanticIds:
    """All semantic IDs, old and new, with the quantiser in the folder ``codebooks``; the rest as :func:`assign_ids`.

    Errors name ``source`` as the folder of ``known``.
    """
    new_ids = _require_new(known, item_ids, source)
    if len(new_ids) != len(vectors):
        raise GenrecError(f"{len(new_ids)} new items but {len(vectors)} vectors; give one vector for each item")
    codes = find_codes(Quantizer.load(codebooks), vectors, CollaborativeMap.load(codebooks), engine)
    suffixes = next_suffixes(known.codes, codes, new_ids, known.level_sizes[-1])
    return SemanticIds(
        np.concatenate([known.item_ids, new_ids]),
        np.concatenate([known.codes, np.column_stack([codes, suffixes])]),
        known.level_sizes,
    )


def _require_new(known: SemanticIds, item_ids: Sequence[AnyId], folder: Path) -> NDArray[Any]:
    if not item_ids:
        return known.item_ids[:0]
    new_ids = id_array(item_ids, "the new items")
    if new_ids.dtype.kind != known.item_ids.dtype.kind:
        forms = "text" if are_text(known.item_ids) else "integers"
        raise GenrecError(f"the new item {new_ids[0]!s:.60}: the ids in {folder} are {forms}; give the new ids so too")
    existing = np.intersect1d(new_ids, known.item_ids)
    if existing.size:
        raise GenrecError(
            f"item {existing[0]} has a semantic ID already in {folder} ({existing.size} such items); leave them out"
        )
    require_once(new_ids[:, None], new_ids, "the new items", "item id")
    return new_ids


@dataclass(frozen=True)
class Update:
    """The result of an update."""

    summary: dict[str, Any]  # the content of summary.json
    kept: int  # number of items that keep their code
    assigned: int  # number of items that get a code from the existing codebooks
    removed: int  # number of items that had a code and left the catalogue
    refitted: str | None  # why the codebooks, and so all codes, were fitted again; None if they were kept


@dataclass(frozen=True)
class _Known:
    """The existing semantic IDs, matched with the n items of the present catalogue."""

    folder: Path
    ids: SemanticIds
    fit: dict[str, Any]  # of summary.json: facts of the fit, and counts of changes since
    settings: dict[str, Any]  # of the fit
    dim: int  # width of the fitted text vectors
    rows: NDArray[np.int64]  # [n], row of each present item in ids; -1 if it has none
    same: NDArray[np.bool_]  # [n], whether the vector of the item is unchanged

    @classmethod
    def of(cls, folder: Path, embeddings: ItemEmbeddings) -> "_Known":
        """Read ``folder``; an error if it is damaged."""
        if (folder / MANIFEST).is_file():
            verify_manifest(folder)
        fit, settings, dim = read_fields(folder / SUMMARY, "fit", "settings", "dim")
        ids, hashes = SemanticIds.load(folder), read_array(folder / FINGERPRINTS)
        if len(hashes) != len(ids.item_ids):
            raise GenrecError(f"{folder / FINGERPRINTS}: {len(hashes)} rows for {len(ids.item_ids)} items; fit again")
        row_of = {item: row for row, item in enumerate(ids.item_ids.tolist())}
        rows = np.array([row_of.get(item, -1) for item in embeddings.item_ids.tolist()], dtype=np.int64)
        same = (rows >= 0) & (hashes[rows] == fingerprints(embeddings.raw))
        return cls(folder, ids, fit, settings, dim, rows, same)

    @property
    def removed(self) -> int:
        return len(self.ids.item_ids) - int((self.rows >= 0).sum())


def update_semantic_ids(
    embeddings_folder: Path,
    settings: SemanticIdSettings,
    target: Path,
    known: Path | None,
    histories: "pl.DataFrame | None" = None,
    engine: Engine | None = None,
) -> Update:
    """Write semantic IDs of a catalogue; unchanged items keep their codes of ``known``.

    The codebooks are fitted if there are no codes yet. ``settings.refit`` says when they are fitted again: ``always``;
    ``auto``: if the codes cannot be kept, or the training part of the histories or too large a share of the items
    changed since the last fit; ``never``: codes that cannot be kept are an error. Codes cannot be kept if ``known`` is
    damaged, if the settings, the text model or the method changed, or if a code has no free suffix.

    Args:
        target: the folder to write; it is replaced whole or not at all.
        known: the folder of the existing semantic IDs; None if there are none.
        histories: as in :func:`~genrec_core.quantization.build.build_semantic_ids`.
    """
    embeddings = ItemEmbeddings.load(embeddings_folder)
    before, why = _matched(known, embeddings, settings)
    if before is not None:
        why = _why_other_codes(before, embeddings, text_model(embeddings_folder), settings)
        why = why or _why_refit(before, settings, histories)
    if before is not None and why is None:
        try:
            return _with_kept_codes(before, embeddings, target, engine)
        except NoSuffixLeftError as error:
            why = str(error)
    if settings.refit == "never" and known is not None:
        raise refused_by_never(why)
    summary = build_semantic_ids(embeddings_folder, settings, target, histories=histories, engine=engine)
    removed = before.removed if before is not None else 0
    return Update(summary, kept=0, assigned=0, removed=removed, refitted=why)


def _matched(
    known: Path | None, embeddings: ItemEmbeddings, settings: SemanticIdSettings
) -> tuple[_Known | None, str | None]:
    """The existing semantic IDs, or the reason why they cannot be kept."""
    if known is None:
        return None, "there were none yet"
    if settings.refit == "always":
        return None, "refit is always"
    try:
        return _Known.of(known, embeddings), None
    except GenrecError as error:
        return None, str(error)


def refused_by_never(why: object) -> GenrecError:
    """The error if ``refit`` is ``never`` and the codes cannot be kept, for the reason ``why``."""
    return GenrecError(
        f"semantic_ids.refit is never, but the codes so far cannot be kept: {why}; undo that, or set "
        "semantic_ids.refit to auto, which gives all items new codes"
    )


def _why_other_codes(
    before: _Known, embeddings: ItemEmbeddings, model: str, settings: SemanticIdSettings
) -> str | None:
    """Why the same items would get other codes now: settings, vectors or method changed; None if they would not."""
    wanted = stored_settings(settings)
    dim = embeddings.raw.shape[1]
    reasons = [f"{name} changed" for name in sorted(wanted) if before.settings.get(name) != wanted[name]]
    if before.fit["method"] != METHOD:
        reasons.append("the code changed")
    # A model that only moved to another folder gives the same vectors.
    if before.fit.get("text_model") != model and not before.same.any():
        reasons.append(f"the text model changed from {before.fit.get('text_model')} to {model}")
    if before.dim != dim:
        reasons.append(f"the vectors had {before.dim} dimensions and have {dim}")
    return ", ".join(reasons) or None


def _why_refit(before: _Known, settings: SemanticIdSettings, histories: "pl.DataFrame | None") -> str | None:
    """Why ``refit: auto`` fits the codebooks again although the codes could be kept; None if it does not."""
    if settings.refit == "never":
        return None
    if before.fit["histories"] != histories_version(histories, settings):
        return "the histories changed"
    changed = before.fit["assigned"] + before.fit["removed"] + int((~before.same).sum()) + before.removed
    share = changed / max(before.fit["items"], 1)
    if share > settings.refit_share:
        return f"{share:.1%} of the items changed since the last fit (most: {settings.refit_share:.1%})"
    return None


def _with_kept_codes(before: _Known, embeddings: ItemEmbeddings, target: Path, engine: Engine | None) -> Update:
    """Write codes for the present items; unchanged items keep theirs."""
    same, assigned = before.same, int((~before.same).sum())
    codes = np.empty((len(same), before.ids.codes.shape[1]), dtype=np.int32)
    codes[same] = before.ids.codes[before.rows[same]]
    codes[~same] = _assigned(before, embeddings, engine)
    changes = {"assigned": before.fit["assigned"] + assigned, "removed": before.fit["removed"] + before.removed}
    ids = SemanticIds(embeddings.item_ids, codes, before.ids.level_sizes)
    facts = {"fitted_items": len(codes), "fit": before.fit | changes}
    summary = write_updated(before.folder, target, ids, fingerprints(embeddings.raw), facts)
    return Update(summary, int(same.sum()), assigned, before.removed, refitted=None)


def _assigned(before: _Known, embeddings: ItemEmbeddings, engine: Engine | None) -> NDArray[np.int32]:
    """Codes of new and changed items, int32 [m, levels + 1]. A changed item with the same code keeps its suffix.

    Suffixes of removed items are not given to other items: the model learned them for the removed item.
    """
    vectors, rows = embeddings.raw[~before.same], before.rows[~before.same]
    codes = find_codes(Quantizer.load(before.folder), vectors, CollaborativeMap.load(before.folder), engine)
    stored = before.ids.codes[rows]
    new = (rows < 0) | (stored[:, :-1] != codes).any(axis=1)
    suffixes, item_ids = stored[:, -1].copy(), embeddings.item_ids[~before.same]
    suffixes[new] = next_suffixes(before.ids.codes, codes[new], item_ids[new], before.ids.level_sizes[-1])
    return np.column_stack([codes, suffixes])
