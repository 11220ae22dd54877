"""From the raw files to semantic IDs."""

import time
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec_core.data.sources import load_tables, read_catalog, receive_raw
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import read_json, verify_manifest
from genrec_core.storage.folders import all_versions, is_there, latest
from genrec_dagster.automation import when_inputs_change
from genrec_dagster.config import CatalogForm, EmbeddingForm, RawBeautyForm, SemanticIdForm
from genrec_dagster.engine import ComputeEngine
from genrec_dagster.failures import plain_failures
from genrec_dagster.freshness import FRESHNESS, fresh_within
from genrec_dagster.metadata import content_version, frame_version
from genrec_dagster.pages.catalog import catalog_page, embeddings_page, histories_page, raw_page, semantic_ids_page
from genrec_dagster.progress import progress_log
from genrec_dagster.resources import WorkFolders

GROUP, OWNERS = "catalog", ["team:recsys"]


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"file"},
    code_version="1",
    freshness_policy=fresh_within(FRESHNESS.raw_hours),
)
@plain_failures
def raw_beauty(
    context: dg.AssetExecutionContext, config: RawBeautyForm, work: WorkFolders
) -> dg.MaterializeResult[Path]:
    """The three P5 files as received: histories, item descriptions, id maps.

    `GENREC_RAW` (a folder, an archive, a URL or an `s3://` prefix) says where they come from; unset, it is the embedded
    sample. The sensor `raw_data` looks there every 30 s. Nothing is changed on the way in; each file's sha256 is kept,
    and the tables of items and histories lie beside the files.
    """
    with work.new(context) as folder:
        source, sha256 = config.place()
        metadata = raw_page(receive_raw(source, folder, sha256))
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"polars", "parquet"},
    code_version="1",
    automation_condition=when_inputs_change(),
)
@plain_failures
def item_catalog(raw_beauty: Path, config: CatalogForm) -> dg.MaterializeResult[pl.DataFrame]:
    """One row an item: its id, what is known of it, and the line of text that stands for it.

    The text follows `text_template`; a part whose field the item lacks is left out.
    """
    catalog = read_catalog(raw_beauty, config)
    return dg.MaterializeResult(value=catalog, metadata=catalog_page(catalog), data_version=frame_version(catalog))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"polars", "parquet"},
    code_version="1",
    automation_condition=when_inputs_change(),
)
@plain_failures
def user_histories(raw_beauty: Path) -> dg.MaterializeResult[pl.DataFrame]:
    """One row a user: the items of the user's history, oldest first.

    The last item of each user is the test item, the one before it the validation item; training sees neither.
    """
    histories = load_tables(raw_beauty).histories
    return dg.MaterializeResult(
        value=histories, metadata=histories_page(histories), data_version=frame_version(histories)
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"huggingface", "numpy"},
    code_version="1",
    automation_condition=when_inputs_change(),
)
@plain_failures
def item_embeddings(
    context: dg.AssetExecutionContext,
    item_catalog: pl.DataFrame,
    config: EmbeddingForm,
    work: WorkFolders,
    engine: ComputeEngine,
) -> dg.MaterializeResult[Path]:
    """One vector an item, from its text, as the model gives it and L2-normalised; only new texts are embedded.

    Semantic IDs are made of these vectors, so `nearest_by_text` tells whether the model understands this catalogue.
    """
    from genrec_core.embedding.item_embeddings import write_item_embeddings
    from genrec_core.embedding.text import embed_new_texts

    texts, item_ids, began = item_catalog["text"].to_list(), item_catalog["item_id"].to_numpy(), time.monotonic()
    known = _embedded_before(context, Path(work.root), config)
    with engine.open(context) as computed_by:
        on_progress = progress_log(context, "texts embedded")
        vectors, embedded = embed_new_texts(texts, config, known, on_progress, computed_by)
    with work.new(context) as folder:
        seconds = time.monotonic() - began
        stats = write_item_embeddings(folder, item_ids, texts, vectors, config.model, seconds, config.max_tokens)
        metadata = embeddings_page(folder, stats, embedded, item_catalog)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


def _embedded_before(
    context: dg.AssetExecutionContext, storage: Path, config: EmbeddingForm
) -> dict[str, NDArray[np.float32]]:
    """The vectors of the newest version; none where there is no whole one."""
    from genrec_core.embedding.item_embeddings import vectors_by_text

    folder = _whole_version_before(context, storage)
    return vectors_by_text(folder, config.model, config.max_tokens) if folder else {}


def _whole_version_before(context: dg.AssetExecutionContext, storage: Path) -> Path | None:
    """The newest version of the asset that is being built; None where there is no whole one."""
    try:
        folder = latest(context.asset_key.to_user_string(), storage)
        verify_manifest(folder)
    except GenrecError as error:
        context.log.info(f"nothing is taken over from an earlier version: {error}")
        return None
    return folder


def _codes_before(context: dg.AssetExecutionContext, storage: Path, config: SemanticIdForm) -> Path | None:
    """The newest version of ``semantic_ids``; with ``refit: never`` it must be whole, unless there was none ever."""
    from genrec_core.quantization.update import refused_by_never

    asset = context.asset_key.to_user_string()
    built = is_there(asset, storage) or any(version.whole for version in all_versions(asset, storage))
    if config.refit != "never" or not built:
        return _whole_version_before(context, storage)
    try:
        folder = latest(asset, storage)
        verify_manifest(folder)
    except GenrecError as error:
        raise refused_by_never(error) from error
    return folder


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "numpy"},
    code_version="2",
    automation_condition=when_inputs_change(),
)
@plain_failures
def semantic_ids(
    context: dg.AssetExecutionContext,
    item_embeddings: Path,
    user_histories: pl.DataFrame,
    config: SemanticIdForm,
    work: WorkFolders,
    engine: ComputeEngine,
) -> dg.MaterializeResult[Path]:
    """One code an item, short enough to generate token by token, and no two alike.

    Items whose texts are alike, or which are bought together in the training part of the histories, share prefixes. The
    last number, the suffix, only tells apart items that share all others. Items that have not changed keep their codes
    unless the codebooks are fitted again.
    """
    from genrec_core.embedding.item_embeddings import ITEM_TEXT
    from genrec_core.quantization.update import update_semantic_ids

    known = _codes_before(context, Path(work.root), config)
    with work.new(context) as folder, engine.open(context) as computed_by:
        update = update_semantic_ids(item_embeddings, config, folder, known, user_histories, computed_by)
        metadata = semantic_ids_page(folder, update.summary, read_json(item_embeddings / ITEM_TEXT))
        metadata |= {name: dg.MetadataValue.int(getattr(update, name)) for name in ("kept", "assigned", "removed")}
        metadata["refitted"] = dg.MetadataValue.text(update.refitted or "no")
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))
