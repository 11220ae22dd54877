"""Is what came in what the model can be built on: raw files, catalogue, histories, vectors, codes."""

from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from genrec_core.data.p5 import DATAMAPS, META, SEQUENCES
from genrec_core.data.sources import load_tables
from genrec_core.embedding.item_embeddings import ITEM_IDS, ITEM_TEXT, L2NORM, RAW, rows_not_told_apart
from genrec_core.errors import GenrecError
from genrec_core.quantization.semantic_ids import CODES_WITH_SUFFIX, SUMMARY
from genrec_core.storage.artifacts import read_json
from genrec_dagster.assets.catalog import item_catalog, item_embeddings, raw_beauty, semantic_ids, user_histories
from genrec_dagster.checks.verdict import verdict
from genrec_dagster.config import CodebookForm, TextVectorForm
from genrec_dagster.failures import reasons_in_results

_LEAST_LENGTH = 3  # one item to train from, one to validate on, one to test on
_SHOWN_TEXT = 80  # characters
_CATALOG = {"item_catalog": dg.AssetIn("item_catalog")}


@dg.asset_check(asset=raw_beauty, blocking=True)
@reasons_in_results
def raw_files_present(raw_beauty: Path) -> dg.AssetCheckResult:
    """The three files are there and none is empty."""
    names = (SEQUENCES, META, DATAMAPS)
    missing = [name for name in names if not (raw_beauty / name).is_file() or not (raw_beauty / name).stat().st_size]
    detail = f"missing or empty: {', '.join(missing)}" if missing else None
    return verdict(not missing, f"{len(names) - len(missing)} files", f"{len(names)} files", detail=detail)


@dg.asset_check(asset=raw_beauty, blocking=True)
@reasons_in_results
def raw_lines_parse(raw_beauty: Path) -> dg.AssetCheckResult:
    """Every line of histories and item descriptions can be read."""
    try:
        load_tables(raw_beauty)
    except GenrecError as error:
        return verdict(False, "a line that does not parse", "every line parses", detail=str(error))
    return verdict(True, "every line parses", "every line parses")


@dg.asset_check(asset=raw_beauty, blocking=True)
@reasons_in_results
def raw_counts(raw_beauty: Path) -> dg.AssetCheckResult:
    """There are users, items and interactions, and no more distinct items than the id map names."""
    try:
        tables = load_tables(raw_beauty)
    except GenrecError as error:
        return verdict(False, "files that cannot be counted", "users, items and interactions", detail=str(error))
    items, known = tables.histories["item_ids"].explode(), tables.items.height
    distinct = items.drop_nulls().n_unique()
    measured = f"{items.len():,} interactions with {distinct:,} items, {known:,} items in {DATAMAPS}"
    return verdict(0 < distinct <= known, measured, f"at least 1 interaction, and no item that {DATAMAPS} lacks")


@dg.asset_check(asset=item_catalog, blocking=True)
@reasons_in_results
def catalog_ids_unique(item_catalog: pl.DataFrame) -> dg.AssetCheckResult:
    """No item id is there twice."""
    repeated = item_catalog.filter(pl.col("item_id").is_duplicated())["item_id"].unique().to_list()
    detail = f"the first is item {repeated[0]}" if repeated else None
    return verdict(not repeated, f"{len(repeated)} repeated ids", "0 repeated ids", detail=detail)


@dg.asset_check(asset=item_catalog, blocking=True)
@reasons_in_results
def catalog_text_present(item_catalog: pl.DataFrame) -> dg.AssetCheckResult:
    """Every item has text to embed."""
    empty = item_catalog.filter(pl.col("text").fill_null("").str.strip_chars() == "")["item_id"].to_list()
    detail = f"the first is item {empty[0]}" if empty else None
    return verdict(not empty, f"{len(empty)} items without text", "0 items without text", detail=detail)


@dg.asset_check(asset=user_histories, blocking=True, additional_ins=_CATALOG)
@reasons_in_results
def histories_know_items(user_histories: pl.DataFrame, item_catalog: pl.DataFrame) -> dg.AssetCheckResult:
    """Histories hold items of the catalogue only."""
    items = user_histories.select("user_id", pl.col("item_ids").alias("item_id")).explode("item_id")
    unknown = items.join(item_catalog.select("item_id"), on="item_id", how="anti").drop_nulls()
    detail = "the first is item {1} of user {0}".format(*unknown.row(0)) if unknown.height else None
    return verdict(not unknown.height, f"{unknown.height} unknown items", "0 unknown items", detail=detail)


@dg.asset_check(asset=user_histories, blocking=True)
@reasons_in_results
def histories_long_enough(user_histories: pl.DataFrame) -> dg.AssetCheckResult:
    """Some histories can be tested on; shorter ones are counted, trained on and left out of the metrics."""
    short = int((user_histories["item_ids"].list.len() < _LEAST_LENGTH).sum())
    enough = user_histories.height - short
    measured = f"{enough} users with {_LEAST_LENGTH} items or more, {short} with fewer"
    return verdict(enough > 0, measured, f"at least 1 user with {_LEAST_LENGTH} items or more")


@dg.asset_check(asset=item_embeddings, blocking=True)
@reasons_in_results
def embeddings_finite(item_embeddings: Path) -> dg.AssetCheckResult:
    """No vector holds NaN or infinity."""
    arrays = [np.load(item_embeddings / name, mmap_mode="r", allow_pickle=False) for name in (RAW, L2NORM)]
    broken = sum(int((~np.isfinite(array).all(axis=1)).sum()) for array in arrays)
    return verdict(broken == 0, f"{broken} vectors that are not finite", "0 vectors that are not finite")


@dg.asset_check(asset=item_embeddings, blocking=True, additional_ins=_CATALOG)
@reasons_in_results
def embeddings_follow_catalog(item_embeddings: Path, item_catalog: pl.DataFrame) -> dg.AssetCheckResult:
    """One vector an item, in the order of the catalogue."""
    rows = {len(np.load(item_embeddings / name, mmap_mode="r", allow_pickle=False)) for name in (RAW, L2NORM)}
    same_order = read_json(item_embeddings / ITEM_IDS) == item_catalog["item_id"].to_list()
    measured = f"{' and '.join(map(str, sorted(rows)))} vectors, ids {'' if same_order else 'not '}in catalogue order"
    wanted = f"{item_catalog.height} vectors, ids in catalogue order"
    return verdict(same_order and rows == {item_catalog.height}, measured, wanted)


@dg.asset_check(asset=item_embeddings, blocking=True)
@reasons_in_results
def texts_told_apart(item_embeddings: Path, config: TextVectorForm) -> dg.AssetCheckResult:
    """Different texts have different vectors: the model can read what the items are called."""
    texts = read_json(item_embeddings / ITEM_TEXT)
    rows = rows_not_told_apart(texts, np.load(item_embeddings / L2NORM, allow_pickle=False)).tolist()
    few = len(rows) <= config.most_alike * len(texts)
    return _alike(few, rows, texts, f"at most {config.most_alike:.0%} of the items")


@dg.asset_check(asset=item_embeddings)
@reasons_in_results
def every_text_told_apart(item_embeddings: Path) -> dg.AssetCheckResult:
    """No two different texts have one vector; the run goes on where some have."""
    texts = read_json(item_embeddings / ITEM_TEXT)
    rows = rows_not_told_apart(texts, np.load(item_embeddings / L2NORM, allow_pickle=False)).tolist()
    return _alike(not rows, rows, texts, "0 items", severity=dg.AssetCheckSeverity.WARN)


def _alike(
    passed: bool,
    rows: list[int],
    texts: list[str],
    wanted: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """What to do about the items in ``rows``, whose vector is that of an item with another text."""
    shown = " and ".join(repr(texts[row][:_SHOWN_TEXT]) for row in rows[:2])
    detail = (
        f"such as {shown}; if the model cannot read their script, set item_embeddings.model to a multilingual "
        "model; if only their ends differ, raise item_embeddings.max_tokens"
    )
    measured = f"{len(rows)} of {len(texts)} items with the vector of another text"
    return verdict(passed, measured, wanted, severity=severity, detail=None if passed else detail)


@dg.asset_check(asset=semantic_ids, blocking=True, additional_ins=_CATALOG)
@reasons_in_results
def semantic_ids_collision_free(semantic_ids: Path, item_catalog: pl.DataFrame) -> dg.AssetCheckResult:
    """Every item of the catalogue has a code that no other item has."""
    codes = np.load(semantic_ids / CODES_WITH_SUFFIX, allow_pickle=False)
    distinct = len(np.unique(codes, axis=0))
    wanted = f"{item_catalog.height} distinct codes for {item_catalog.height} items"
    return verdict(
        distinct == len(codes) == item_catalog.height, f"{distinct} distinct codes for {len(codes)} items", wanted
    )


@dg.asset_check(asset=semantic_ids)
@reasons_in_results
def codebook_use(semantic_ids: Path, config: CodebookForm) -> dg.AssetCheckResult:
    """Most centroids of every level stand for some item."""
    least = min(read_json(semantic_ids / SUMMARY)["codebook_use"])
    wanted = f"at least {config.least_use:g} of every level's centroids in use"
    return verdict(least >= config.least_use, float(least), wanted, severity=dg.AssetCheckSeverity.WARN)


@dg.asset_check(asset=semantic_ids)
@reasons_in_results
def suffix_depth(semantic_ids: Path, config: CodebookForm) -> dg.AssetCheckResult:
    """Few items share all levels but the suffix."""
    deepest = read_json(semantic_ids / SUMMARY)["deepest_suffix"]
    wanted = f"a deepest suffix of at most {config.deepest_suffix}"
    return verdict(deepest <= config.deepest_suffix, deepest, wanted, severity=dg.AssetCheckSeverity.WARN)


CHECKS = [
    raw_files_present,
    raw_lines_parse,
    raw_counts,
    catalog_ids_unique,
    catalog_text_present,
    histories_know_items,
    histories_long_enough,
    embeddings_finite,
    embeddings_follow_catalog,
    texts_told_apart,
    every_text_told_apart,
    semantic_ids_collision_free,
    codebook_use,
    suffix_depth,
]
