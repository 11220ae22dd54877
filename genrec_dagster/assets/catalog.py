"""The assets from the raw files to semantic IDs."""

import time
from pathlib import Path

import dagster as dg
import polars as pl

from genrec_core.data.sources import load_tables, read_catalog, receive_raw
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import read_json, verify_manifest
from genrec_core.storage.folders import all_versions, is_there, latest
from genrec_dagster.automation import FRESHNESS, fresh_within, when_inputs_change
from genrec_dagster.config import CatalogForm, ComputeEngine, EmbeddingForm, RawBeautyForm, SemanticIdForm
from genrec_dagster.failures import plain_failures
from genrec_dagster.metadata import content_version, frame_version
from genrec_dagster.pages.catalog import catalog_page, embeddings_page, histories_page, raw_page, semantic_ids_page
from genrec_dagster.resources import WorkFolders, progress_log

_GROUP, _OWNERS, _REBUILT = "catalog", ["team:recsys"], when_inputs_change()


@dg.asset(
    group_name=_GROUP,
    owners=_OWNERS,
    kinds={"file"},
    code_version="1",
    freshness_policy=fresh_within(FRESHNESS.raw_hours),
)
@plain_failures
def raw_beauty(
    context: dg.AssetExecutionContext, config: RawBeautyForm, work: WorkFolders
) -> dg.MaterializeResult[Path]:
    """The three P5 files as received: histories, item descriptions and id maps, with the sha256 of each.

    `GENREC_RAW` says where they come from: a folder, an archive, a URL or an `s3://` prefix. Without it, they are the
    sample that the package contains. With it, the sensor `raw_data` looks for changes every 30 s. The tables of items
    and histories that are read from the files lie beside them.
    """
    with work.new(context) as folder:
        source, sha256 = config.place()
        metadata = raw_page(receive_raw(source, folder, sha256))
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


@dg.asset(
    group_name=_GROUP, owners=_OWNERS, automation_condition=_REBUILT, kinds={"polars", "parquet"}, code_version="1"
)
@plain_failures
def item_catalog(raw_beauty: Path, config: CatalogForm) -> dg.MaterializeResult[pl.DataFrame]:
    """One row for each item: its id, its fields, and the text that the embedding model reads.

    `text_template` puts the fields together. A part whose field is empty is left out.
    """
    catalog = read_catalog(raw_beauty, config)
    return dg.MaterializeResult(value=catalog, metadata=catalog_page(catalog), data_version=frame_version(catalog))


@dg.asset(
    group_name=_GROUP, owners=_OWNERS, automation_condition=_REBUILT, kinds={"polars", "parquet"}, code_version="1"
)
@plain_failures
def user_histories(raw_beauty: Path) -> dg.MaterializeResult[pl.DataFrame]:
    """One row for each user: the items that the user bought, oldest first.

    The last item of each user is the test item, the one before it the validation item. Training uses neither.
    """
    histories = load_tables(raw_beauty).histories
    return dg.MaterializeResult(
        value=histories, metadata=histories_page(histories), data_version=frame_version(histories)
    )


@dg.asset(
    group_name=_GROUP, owners=_OWNERS, automation_condition=_REBUILT, kinds={"huggingface", "numpy"}, code_version="1"
)
@plain_failures
def item_embeddings(
    context: dg.AssetExecutionContext,
    item_catalog: pl.DataFrame,
    config: EmbeddingForm,
    work: WorkFolders,
    engine: ComputeEngine,
) -> dg.MaterializeResult[Path]:
    """One vector for each item, computed from its text; as the model gives it, and L2-normalised.

    Only new texts are embedded. Semantic IDs are made from these vectors, so look at `nearest_by_text`: if near items
    are not alike, the model does not understand this catalogue.
    """
    from genrec_core.embedding.item_embeddings import vectors_by_text, write_item_embeddings
    from genrec_core.embedding.text import embed_new_texts

    texts, item_ids, began = item_catalog["text"].to_list(), item_catalog["item_id"].to_numpy(), time.monotonic()
    earlier = _earlier_version(context, Path(work.root))
    known = vectors_by_text(earlier, config.model, config.max_tokens) if earlier else {}
    with engine.open(context) as computed_by:
        progress = progress_log(context, "texts embedded")
        vectors, embedded = embed_new_texts(texts, config, known, progress, computed_by)
    with work.new(context) as folder:
        seconds = time.monotonic() - began
        stats = write_item_embeddings(folder, item_ids, texts, vectors, config.model, seconds, config.max_tokens)
        metadata = embeddings_page(folder, stats, embedded, item_catalog)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


@dg.asset(
    group_name=_GROUP, owners=_OWNERS, automation_condition=_REBUILT, kinds={"pytorch", "numpy"}, code_version="2"
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
    """The semantic ID of each item: a short code that the model generates number by number. No two items share one.

    Items with similar texts share the first numbers, and so do items that users buy together (by the training part of
    the histories). The last number, the suffix, only tells apart items that share all others. Unchanged items keep
    their codes until the codebooks are fitted again.
    """
    from genrec_core.embedding.item_embeddings import ITEM_TEXT
    from genrec_core.quantization.update import update_semantic_ids

    earlier = _earlier_version(context, Path(work.root), required=config.refit == "never")
    with work.new(context) as folder, engine.open(context) as computed_by:
        update = update_semantic_ids(item_embeddings, config, folder, earlier, user_histories, computed_by)
        metadata = semantic_ids_page(folder, update, read_json(item_embeddings / ITEM_TEXT))
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


def _earlier_version(context: dg.AssetExecutionContext, storage: Path, required: bool = False) -> Path | None:
    """The newest version of the asset that is being built; None if there is none, or if it is damaged.

    Raises:
        GenrecError: there is one, it is damaged, and it is ``required``.
    """
    from genrec_core.quantization.update import refused_by_never

    asset = context.asset_key.to_user_string()
    if not is_there(asset, storage) and not any(version.whole for version in all_versions(asset, storage)):
        context.log.info(f"{asset} has no earlier version to reuse, so everything is computed")
        return None
    try:
        folder = latest(asset, storage)
        verify_manifest(folder)
    except GenrecError as error:
        if required:
            raise refused_by_never(error) from error
        context.log.warning(f"the earlier version of {asset} is not reused, so everything is computed: {error}")
        return None
    return folder
