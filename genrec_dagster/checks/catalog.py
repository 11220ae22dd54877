"""Checks of the assets from the raw files to semantic IDs."""

from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from genrec_core.data.histories import windows_of
from genrec_core.data.sources import PROVENANCE, load_tables
from genrec_core.data.split import SHORTEST_EVALUATED, askable
from genrec_core.embedding.item_embeddings import ITEM_IDS, ITEM_TEXT, L2NORM, RAW, rows_not_told_apart, text_model
from genrec_core.embedding.text import OWN_VECTORS
from genrec_core.errors import GenrecError
from genrec_core.quantization.semantic_ids import CODES_WITH_SUFFIX, SUMMARY
from genrec_core.storage.artifacts import read_json
from genrec_dagster.assets.catalog import item_catalog, item_embeddings, raw_beauty, semantic_ids, user_histories
from genrec_dagster.checks.check import WARN, check_result, gate, warning
from genrec_dagster.config import CodebookForm, TextVectorForm

_SHOWN_TEXT = 80  # characters


@gate(raw_beauty)
def raw_files_present(raw_beauty: Path) -> dg.AssetCheckResult:
    """The received files exist and none is empty."""
    names = list(read_json(raw_beauty / PROVENANCE)["files"])
    missing = [name for name in names if not (raw_beauty / name).is_file() or not (raw_beauty / name).stat().st_size]
    detail = f"missing or empty: {', '.join(missing)}" if missing else None
    return check_result(not missing, f"{len(names) - len(missing)} files", f"{len(names)} files", detail=detail)


@gate(raw_beauty)
def raw_lines_parse(raw_beauty: Path) -> dg.AssetCheckResult:
    """Every line of the files can be read."""
    try:
        load_tables(raw_beauty)
    except GenrecError as error:
        return check_result(False, "a line that does not parse", "every line parses", detail=str(error))
    return check_result(True, "every line parses", "every line parses")


@gate(raw_beauty)
def raw_counts(raw_beauty: Path) -> dg.AssetCheckResult:
    """There are users, items and interactions, and the interactions hold no more items than the catalogue."""
    try:
        tables = load_tables(raw_beauty)
    except GenrecError as error:
        return check_result(False, "files that cannot be counted", "users, items and interactions", detail=str(error))
    items, known = tables.histories["item_ids"].explode(), tables.items.height
    distinct = items.drop_nulls().n_unique()
    measured = f"{items.len():,} interactions with {distinct:,} items of {known:,}"
    return check_result(0 < distinct <= known, measured, "at least 1 interaction, and no item that is not listed")


@gate(item_catalog)
def catalog_ids_unique(item_catalog: pl.DataFrame) -> dg.AssetCheckResult:
    """No item id occurs twice in the catalogue."""
    repeated = item_catalog.filter(pl.col("item_id").is_duplicated())["item_id"].unique().to_list()
    detail = f"the first is item {repeated[0]}" if repeated else None
    return check_result(not repeated, f"{len(repeated)} repeated ids", "0 repeated ids", detail=detail)


@gate(item_catalog)
def catalog_text_present(item_catalog: pl.DataFrame) -> dg.AssetCheckResult:
    """Every item has a text to embed."""
    empty = item_catalog.filter(pl.col("text").fill_null("").str.strip_chars() == "")["item_id"].to_list()
    detail = f"the first is item {empty[0]}" if empty else None
    return check_result(not empty, f"{len(empty)} items without text", "0 items without text", detail=detail)


@gate(user_histories, "item_catalog")
def histories_know_items(user_histories: pl.DataFrame, item_catalog: pl.DataFrame) -> dg.AssetCheckResult:
    """Every item of the histories is in the catalogue."""
    items = user_histories.select("user_id", pl.col("item_ids").alias("item_id")).explode("item_id")
    unknown = items.join(item_catalog.select("item_id"), on="item_id", how="anti").drop_nulls()
    detail = "the first is item {1} of user {0}".format(*unknown.row(0)) if unknown.height else None
    return check_result(not unknown.height, f"{unknown.height} unknown items", "0 unknown items", detail=detail)


@gate(user_histories)
def histories_long_enough(user_histories: pl.DataFrame) -> dg.AssetCheckResult:
    """At least one user has three items or more. Users with fewer are trained on, but not evaluated.

    Split by time, at least one user has an item before the validation window and one in it; so too for the test window.
    """
    by_time = windows_of(user_histories)
    enough = int(askable(user_histories["item_ids"].list.len().to_numpy().astype(np.int64), by_time).min())
    needed = f"{SHORTEST_EVALUATED} items or more" if by_time is None else "an item in each window and before it"
    measured = f"{enough} users with {needed}, {user_histories.height - enough} with fewer"
    return check_result(enough > 0, measured, f"at least 1 user with {needed}")


@gate(item_embeddings)
def embeddings_finite(item_embeddings: Path) -> dg.AssetCheckResult:
    """No text vector holds NaN or infinity."""
    arrays = [np.load(item_embeddings / name, mmap_mode="r", allow_pickle=False) for name in (RAW, L2NORM)]
    broken = sum(int((~np.isfinite(array).all(axis=1)).sum()) for array in arrays)
    return check_result(broken == 0, f"{broken} vectors that are not finite", "0 vectors that are not finite")


@gate(item_embeddings, "item_catalog")
def embeddings_follow_catalog(item_embeddings: Path, item_catalog: pl.DataFrame) -> dg.AssetCheckResult:
    """There is one vector for each item, in the order of the catalogue."""
    rows = {len(np.load(item_embeddings / name, mmap_mode="r", allow_pickle=False)) for name in (RAW, L2NORM)}
    same_order = read_json(item_embeddings / ITEM_IDS) == item_catalog["item_id"].to_list()
    measured = f"{' and '.join(map(str, sorted(rows)))} vectors, ids {'' if same_order else 'not '}in catalogue order"
    wanted = f"{item_catalog.height} vectors, ids in catalogue order"
    return check_result(same_order and rows == {item_catalog.height}, measured, wanted)


@gate(item_embeddings)
def texts_told_apart(item_embeddings: Path, config: TextVectorForm) -> dg.AssetCheckResult:
    """Almost all different texts have different vectors, so the model can read the item texts."""
    return _texts_with_own_vectors(item_embeddings, config.most_alike, f"at most {config.most_alike:.0%} of the items")


@warning(item_embeddings)
def every_text_told_apart(item_embeddings: Path) -> dg.AssetCheckResult:
    """No two different texts have the same vector."""
    return _texts_with_own_vectors(item_embeddings, 0.0, "0 items", WARN)


def _texts_with_own_vectors(
    item_embeddings: Path,
    largest_share: float,
    wanted: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """Count the items whose vector is that of an item with another text."""
    texts = read_json(item_embeddings / ITEM_TEXT)
    if text_model(item_embeddings) == OWN_VECTORS:
        return check_result(True, "the vectors are the user's own", wanted, severity=severity)
    rows = rows_not_told_apart(texts, np.load(item_embeddings / L2NORM, allow_pickle=False)).tolist()
    measured = f"{len(rows)} of {len(texts)} items with the vector of another text"
    if len(rows) <= largest_share * len(texts):
        return check_result(True, measured, wanted, severity=severity)
    examples = " and ".join(repr(texts[row][:_SHOWN_TEXT]) for row in rows[:2])
    detail = (
        f"such as {examples}; if the model cannot read their script, set item_embeddings.model to a multilingual "
        "model; if only their ends differ, raise item_embeddings.max_tokens"
    )
    return check_result(False, measured, wanted, severity=severity, detail=detail)


@gate(semantic_ids, "item_catalog")
def semantic_ids_collision_free(semantic_ids: Path, item_catalog: pl.DataFrame) -> dg.AssetCheckResult:
    """Every item of the catalogue has a semantic ID that no other item has."""
    codes = np.load(semantic_ids / CODES_WITH_SUFFIX, allow_pickle=False)
    distinct = len(np.unique(codes, axis=0))
    measured = f"{distinct} distinct codes for {len(codes)} items"
    wanted = f"{item_catalog.height} distinct codes for {item_catalog.height} items"
    return check_result(distinct == len(codes) == item_catalog.height, measured, wanted)


@warning(semantic_ids)
def codebook_use(semantic_ids: Path, config: CodebookForm) -> dg.AssetCheckResult:
    """On every level, most centroids of the codebook are used by at least one item."""
    least = float(min(read_json(semantic_ids / SUMMARY)["codebook_use"]))
    wanted = f"a share of used centroids of at least {config.least_use:g} on every level"
    return check_result(least >= config.least_use, least, wanted, severity=WARN)


@warning(semantic_ids)
def suffix_depth(semantic_ids: Path, config: CodebookForm) -> dg.AssetCheckResult:
    """Few items share all levels of their semantic ID but the suffix."""
    deepest = read_json(semantic_ids / SUMMARY)["deepest_suffix"]
    wanted = f"a largest suffix of at most {config.deepest_suffix}"
    return check_result(deepest <= config.deepest_suffix, deepest, wanted, severity=WARN)
