"""The assets from the raw files to semantic IDs, and what their pages show."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from genrec_core.data.sources import load_tables, read_catalog, receive_raw, sentence
from genrec_core.data.temporal import split_by_time, split_sentence
from genrec_core.storage.artifacts import read_json
from genrec_core.storage.folders import earlier_version
from genrec_dagster.automation import FRESHNESS, fresh_within, rebuilt_asset
from genrec_dagster.config import CatalogForm, ComputeEngine, EmbeddingForm, RawBeautyForm, SemanticIdForm, SplitForm
from genrec_dagster.failures import plain_failures
from genrec_dagster.metadata import Page, Row, columns, content_version, frame_version, markdown, picture, table
from genrec_dagster.resources import WorkFolders, progress_log

if TYPE_CHECKING:
    from genrec_core.quantization.update import Update

_ITEM_COLUMNS = {
    "item_id": "the data set's own id",
    "categories": "paths from the root, `A > B > C`, joined by `; `",
    "text": "the text that the embedding model reads",
    "text_template": "what `text` was made by",
}
_USER_COLUMNS = {
    "user_id": "the data set's own id",
    "item_ids": "the items that the user bought, oldest first",
    "times": "when each item was bought, in seconds since 1970",
    "validation_items": "how many of the newest items before the test window lie in the validation window",
    "test_items": "how many of the newest items lie in the test window",
}
_SHOWN = ("item_id", "title", "brand", "categories", "price")
_NOT_SHOWN = ("description", "text", "text_template")  # too long for a table
_SHOWN_FURTHER = 3  # columns of the user's own
_RAW_FACTS = (
    *("share_of_repeats", "share_of_ties", "most_interactions_of_a_user", "users_cut_to_their_newest"),
    *("interactions_with_unlisted_items", "items_listed_twice", "items_without_id", "events"),
)
_DEPARTMENTS = 7  # the map has eight colours; one is for all other departments


@dg.asset(
    group_name="catalog",
    owners=["team:recsys"],
    kinds={"file"},
    code_version="1",
    freshness_policy=fresh_within(FRESHNESS.raw_hours),
)
@plain_failures
def raw_beauty(
    context: dg.AssetExecutionContext, config: RawBeautyForm, work: WorkFolders
) -> dg.MaterializeResult[Path]:
    """The files of your data as received, with the sha256 of each, and what was understood, taken and left out.

    `GENREC_RAW` says where they come from: a folder, a file, an archive, a URL or an `s3://` prefix. Without it, they
    are the sample that the package contains. With it, the sensor `raw_data` looks for changes every 30 s. Look at
    `columns`: what each column was taken for. The setting `columns` corrects it.
    """
    with work.new(context) as folder:
        source, sha256 = config.place()
        metadata = raw_page(receive_raw(source, folder, sha256, config.data()))
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


@rebuilt_asset("catalog", kinds={"polars", "parquet"}, code_version="1")
@plain_failures
def item_catalog(raw_beauty: Path, config: CatalogForm) -> dg.MaterializeResult[pl.DataFrame]:
    """One row for each item: its id, its fields, and the text that the embedding model reads.

    `text_template` puts the fields together; unset, the raw data's own template does. A part whose field is empty is
    left out.
    """
    catalog = read_catalog(raw_beauty, config)
    return dg.MaterializeResult(value=catalog, metadata=catalog_page(catalog), data_version=frame_version(catalog))


@rebuilt_asset("catalog", kinds={"polars", "parquet"}, code_version="1")
@plain_failures
def user_histories(raw_beauty: Path, config: SplitForm) -> dg.MaterializeResult[pl.DataFrame]:
    """One row for each user: the items that the user bought, oldest first.

    The last item of each user is the test item, the one before it the validation item. Training uses neither. With
    `split: temporal`, all that was bought after one point in time is held out instead.
    """
    histories = split_by_time(load_tables(raw_beauty).histories, config)
    return dg.MaterializeResult(
        value=histories, metadata=histories_page(histories), data_version=frame_version(histories)
    )


@rebuilt_asset("catalog", kinds={"huggingface", "numpy"}, code_version="1")
@plain_failures
def item_embeddings(
    context: dg.AssetExecutionContext,
    item_catalog: pl.DataFrame,
    config: EmbeddingForm,
    work: WorkFolders,
    engine: ComputeEngine,
) -> dg.MaterializeResult[Path]:
    """One vector for each item, computed from its text, or brought by your data; as it is, and L2-normalised.

    Only new texts are embedded, and a run that was killed goes on where it stopped. Semantic IDs are made from these
    vectors, so look at `nearest_by_text`: if near items are not alike, the model does not understand this catalogue.
    """
    from genrec_core.embedding.build import build_item_embeddings

    earlier = earlier_version("item_embeddings", Path(work.root), context.log.info)
    progress = progress_log(context, "texts embedded")
    with work.new(context) as folder, engine.open(context) as computed_by:
        stats, embedded = build_item_embeddings(
            item_catalog, config, folder, earlier, work.embedding, progress, computed_by
        )
        metadata = embeddings_page(folder, stats, embedded, item_catalog)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


@rebuilt_asset("catalog", kinds={"pytorch", "numpy"}, code_version="2")
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
    from genrec_core.quantization.update import refused_by_never, update_semantic_ids

    refused = refused_by_never if config.refit == "never" else None
    earlier = earlier_version("semantic_ids", Path(work.root), context.log.info, refused)
    with work.new(context) as folder, engine.open(context) as computed_by:
        update = update_semantic_ids(item_embeddings, config, folder, earlier, user_histories, computed_by)
        metadata = semantic_ids_page(folder, update, read_json(item_embeddings / ITEM_TEXT))
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


def raw_page(provenance: Mapping[str, Any]) -> Page:
    """What was understood, in one sentence; then the columns, what was left out, the counts and the files."""
    files: list[Row] = [{"file": name, **facts} for name, facts in provenance["files"].items()]
    steps: list[Row] = provenance["cleaning"]
    return {
        "understood": sentence(provenance),
        **({"columns": table(provenance["columns"])} if provenance["columns"] else {}),
        **({"left_out": table(steps)} if steps else {}),
        **{name: provenance[name] for name in ("users", "items", "interactions")},
        **{name: provenance[name] for name in _RAW_FACTS if name in provenance},
        "items_without_description": provenance["items_without_meta"],
        "items_with_unreadable_letters": provenance["items_with_unreadable_letters"],
        "source": provenance["source"],
        "files": table(files),
    }


def catalog_page(catalog: pl.DataFrame) -> Page:
    """The columns, some items, how many items have each field, and plots."""
    from genrec_core.evaluation.pages.catalog import catalog_picture, field_coverage, spread

    fields = catalog.select(~pl.selectors.nested())  # no vectors
    further = [name for name in fields.columns if name not in (*_SHOWN, *_NOT_SHOWN)]
    some_items = fields[spread(catalog.height, 8)].select(*_SHOWN, *further[:_SHOWN_FURTHER])
    return {
        "dagster/row_count": catalog.height,
        "dagster/column_schema": columns(catalog, _ITEM_COLUMNS),
        "some_items": markdown(some_items.to_dicts()),
        "filled_fields": table(field_coverage(fields)),
        "plots": picture(catalog_picture(catalog), "length of the texts, and items by department"),
        "items_with_repeated_text": catalog.height - catalog["text"].n_unique(),
    }


def histories_page(histories: pl.DataFrame) -> Page:
    """The columns, some users, and plots of how long histories and how popular items are."""
    from genrec_core.evaluation.pages.catalog import histories_picture, interactions_by_item

    return {
        "dagster/row_count": histories.height,
        "dagster/column_schema": columns(histories, _USER_COLUMNS),
        "some_users": markdown(histories.head(5).drop("times", strict=False).to_dicts()),
        "interactions": int(histories["item_ids"].list.len().sum()),
        "split": split_sentence(histories),
        "different_items_bought": len(interactions_by_item(histories)),
        "plots": picture(histories_picture(histories), "history length, and popularity of items"),
    }


def embeddings_page(folder: Path, stats: Mapping[str, Any], embedded: int, catalog: pl.DataFrame) -> Page:
    """The model, how many texts it embedded, the nearest items of some items, and a map of the catalogue."""
    from genrec_core.embedding.item_embeddings import ItemEmbeddings
    from genrec_core.evaluation.pages.catalog import departments, embedding_picture, largest, nearest_items

    vectors = ItemEmbeddings.load(folder)
    groups = largest(departments(catalog["categories"]), _DEPARTMENTS).to_list()
    names = catalog.select(pl.coalesce("title", "text")).to_series().to_list()
    return {
        "dagster/row_count": stats["items"],
        "model": stats["model"],
        "dimensions": stats["dim"],
        "texts_embedded": embedded,
        "texts_reused": stats["items"] - embedded,
        "embedding_seconds": stats["seconds"],
        "nearest_by_text": markdown(nearest_items(vectors, names, shown=6, neighbors=3)),
        "plots": picture(embedding_picture(vectors, groups), "length of the vectors, and a map of the items by text"),
        "summary": dict(stats),
    }


def semantic_ids_page(folder: Path, update: "Update", texts: list[str]) -> Page:
    """What changed since the last version, how well the codebooks are used, and which items share a prefix."""
    from genrec_core.evaluation.pages.catalog import codebook_picture, shared_prefixes
    from genrec_core.quantization.semantic_ids import SemanticIds

    ids, summary = SemanticIds.load(folder), update.summary
    measures = ("codebook_use", "codebook_entropy_bits", "unique_prefixes", "reconstruction_error")
    levels: list[Row] = [  # all but the suffix, which has no codebook
        {
            "level": level + 1,
            "centroids": summary["level_sizes"][level],
            **{name: summary[name][level] for name in measures},
        }
        for level in range(len(summary["codebook_use"]))
    ]
    return {
        "dagster/row_count": summary["items"],
        **{name: getattr(update, name) for name in ("kept", "assigned", "removed")},
        "refitted": update.refitted or "no",
        "levels": table(levels),
        "items_that_share_all_levels": summary["collided_items"],
        "deepest_suffix": summary["deepest_suffix"],
        "items_with_equal_prefix": markdown(shared_prefixes(ids, texts, shown=2, members=3)),
        "plots": picture(codebook_picture(summary, ids.codes), "use of the codebooks"),
        "summary": dict(summary),
    }
