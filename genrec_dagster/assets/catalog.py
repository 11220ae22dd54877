"""From the raw files to semantic IDs."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec_core.artifacts import verify_manifest
from genrec_core.data.p5 import read_catalog, read_histories, receive_raw
from genrec_core.errors import GenrecError
from genrec_core.storage import latest
from genrec_dagster.automation import when_inputs_change
from genrec_dagster.config import CatalogForm, EmbeddingForm, RawBeautyForm, SemanticIdForm
from genrec_dagster.metadata import Row, content_version, describe_frame, frame_version, picture, table
from genrec_dagster.progress import progress_log
from genrec_dagster.resources import WorkFolders

GROUP, OWNERS = "catalog", ["team:recsys"]


@dg.asset(group_name=GROUP, owners=OWNERS, kinds={"file"}, code_version="1")
def raw_beauty(
    context: dg.AssetExecutionContext, config: RawBeautyForm, work: WorkFolders
) -> dg.MaterializeResult[Path]:
    """The three P5 files as received: histories, item descriptions, id maps."""
    with work.new(context) as folder:
        provenance = receive_raw(config.source, folder)
        files = [{"file": name, **facts} for name, facts in provenance["files"].items()]
        metadata = {
            "source": dg.MetadataValue.text(provenance["source"]),
            "files": table(files),
            **{name: dg.MetadataValue.int(provenance[name]) for name in ("users", "items", "interactions")},
        }
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"polars", "parquet"},
    code_version="1",
    automation_condition=when_inputs_change(),
)
def item_catalog(raw_beauty: Path, config: CatalogForm) -> dg.MaterializeResult[pl.DataFrame]:
    """One row an item: its id, what is known of it, and the line of text that stands for it."""
    catalog = read_catalog(raw_beauty, config)
    filled: list[Row] = [{"field": column.name, "items": column.len() - column.null_count()} for column in catalog]
    metadata = {**describe_frame(catalog), "filled_fields": table(filled)}
    return dg.MaterializeResult(value=catalog, metadata=metadata, data_version=frame_version(catalog))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"polars", "parquet"},
    code_version="1",
    automation_condition=when_inputs_change(),
)
def user_histories(raw_beauty: Path) -> dg.MaterializeResult[pl.DataFrame]:
    """One row a user: the items of the user's history, oldest first."""
    histories = read_histories(raw_beauty)
    lengths = histories["item_ids"].list.len()
    metadata = {
        **describe_frame(histories),
        "interactions": dg.MetadataValue.int(int(lengths.sum())),
        "history_lengths": table(_quantiles(lengths)),
    }
    return dg.MaterializeResult(value=histories, metadata=metadata, data_version=frame_version(histories))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"huggingface", "numpy"},
    code_version="1",
    automation_condition=when_inputs_change(),
)
def item_embeddings(
    context: dg.AssetExecutionContext, item_catalog: pl.DataFrame, config: EmbeddingForm, work: WorkFolders
) -> dg.MaterializeResult[Path]:
    """One vector an item, from its text, as the model gives it and L2-normalised; only new texts are embedded."""
    from genrec_core.embedding.item_embeddings import write_item_embeddings
    from genrec_core.embedding.text import embed_new_texts

    texts, item_ids, began = item_catalog["text"].to_list(), item_catalog["item_id"].to_numpy(), time.monotonic()
    known = _embedded_before(context, Path(work.root), config)
    vectors, embedded = embed_new_texts(texts, config, known, progress_log(context, "texts embedded"))
    with work.new(context) as folder:
        seconds = time.monotonic() - began
        stats = write_item_embeddings(folder, item_ids, texts, vectors, config.model, seconds, config.max_tokens)
        metadata = {**_facts(stats, stats["items"]), "texts_embedded": dg.MetadataValue.int(embedded)}
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


def _embedded_before(
    context: dg.AssetExecutionContext, storage: Path, config: EmbeddingForm
) -> dict[str, NDArray[np.float32]]:
    """The vectors of the newest version; none where there is no whole one."""
    from genrec_core.embedding.item_embeddings import vectors_by_text

    try:
        folder = latest(context.asset_key.to_user_string(), storage)
        verify_manifest(folder)
        return vectors_by_text(folder, config.model, config.max_tokens)
    except GenrecError as error:
        context.log.info(f"every text is embedded: {error}")
        return {}


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"pytorch", "numpy"},
    code_version="2",
    automation_condition=when_inputs_change(),
)
def semantic_ids(
    context: dg.AssetExecutionContext,
    item_embeddings: Path,
    user_histories: pl.DataFrame,
    config: SemanticIdForm,
    work: WorkFolders,
) -> dg.MaterializeResult[Path]:
    """One code an item, short enough to generate token by token, and no two alike.

    Items whose texts are alike, or which are bought together in the training part of the histories, share prefixes.
    """
    from genrec_core.evaluation.plots import codebook_use
    from genrec_core.quantization.semantic_ids import build_semantic_ids

    with work.new(context) as folder:
        summary = build_semantic_ids(item_embeddings, config, folder, histories=user_histories)
        metadata = {
            **_facts(summary, summary["items"]),
            "codebook_use": picture(codebook_use(summary), "codebook use by level"),
            "levels": table(_levels(summary)),
        }
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


def _levels(summary: Mapping[str, Any]) -> list[Row]:
    """One row a level: its centroids, how many are in use, and what they explain."""
    columns = ("codebook_use", "codebook_entropy_bits", "unique_prefixes", "reconstruction_error")
    values = zip(*(summary[name] for name in columns), strict=True)
    sizes = summary["level_sizes"]
    return [
        {"level": level, "centroids": size, **dict(zip(columns, row, strict=True))}
        for level, (size, row) in enumerate(zip(sizes, values, strict=False), start=1)  # the suffix has no codebook
    ]


def _facts(facts: Mapping[str, Any], rows: int) -> dict[str, dg.MetadataValue]:
    """Row count, and every fact as JSON."""
    return {
        "dagster/row_count": dg.MetadataValue.int(rows),
        "summary": dg.MetadataValue.json(dict(facts)),
    }


def _quantiles(values: pl.Series) -> list[Row]:
    shares = {"shortest": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "99 %": 0.99, "longest": 1.0}
    return [{"quantile": name, "items": values.quantile(share, "nearest")} for name, share in shares.items()]
