"""The pages of the assets from the raw files to semantic IDs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from genrec_dagster.metadata import Page, Row, columns, markdown_table, picture, table

_ITEM_COLUMNS = {
    "item_id": "the data set's own id",
    "categories": "paths from the root, `A > B > C`, joined by `; `",
    "text": "what is embedded",
}
_USER_COLUMNS = {"user_id": "the data set's own id", "item_ids": "what the user bought, oldest first"}
_SHOWN = ("item_id", "title", "brand", "categories", "price")
_DEPARTMENTS = 7  # colours of the map, one is left for the others


def raw_page(provenance: Mapping[str, Any]) -> Page:
    """Where the files came from, and what is in them."""
    files: list[Row] = [{"file": name, **facts} for name, facts in provenance["files"].items()]
    return {
        "source": dg.MetadataValue.text(provenance["source"]),
        "files": table(files),
        **{name: dg.MetadataValue.int(provenance[name]) for name in ("users", "items", "interactions")},
        "items_without_description": dg.MetadataValue.int(provenance["items_without_meta"]),
        "items_with_unreadable_letters": dg.MetadataValue.int(provenance["items_with_unreadable_letters"]),
        "interactions_a_user": dg.MetadataValue.float(round(provenance["interactions"] / provenance["users"], 2)),
        "bytes": dg.MetadataValue.int(sum(facts["bytes"] for facts in provenance["files"].values())),
    }


def catalog_page(catalog: pl.DataFrame) -> Page:
    """What is known of the items, what the shop sells, and some of it."""
    from genrec_core.evaluation.pages.catalog import catalog_picture, field_coverage
    from genrec_core.evaluation.pages.embeddings import spread

    return {
        "dagster/row_count": dg.MetadataValue.int(catalog.height),
        "dagster/column_schema": columns(catalog, _ITEM_COLUMNS),
        "some_items": dg.MetadataValue.md(markdown_table(catalog[spread(catalog.height, 8)].select(_SHOWN).to_dicts())),
        "filled_fields": table(field_coverage(catalog)),
        "plots": picture(catalog_picture(catalog), "length of the texts, and items by department"),
        "texts_alike": dg.MetadataValue.int(catalog.height - catalog["text"].n_unique()),
    }


def histories_page(histories: pl.DataFrame) -> Page:
    """How long histories are, and how unevenly items are bought."""
    from genrec_core.evaluation.pages.catalog import histories_picture, interactions_by_item

    lengths = histories["item_ids"].list.len()
    bought = interactions_by_item(histories)
    return {
        "dagster/row_count": dg.MetadataValue.int(histories.height),
        "dagster/column_schema": columns(histories, _USER_COLUMNS),
        "some_users": dg.MetadataValue.md(markdown_table(histories.head(5).to_dicts())),
        "interactions": dg.MetadataValue.int(int(lengths.sum())),
        "items_bought": dg.MetadataValue.int(len(bought)),
        "history_lengths": table(_quantiles(lengths)),
        "plots": picture(histories_picture(histories), "history length, and popularity of items"),
    }


def embeddings_page(folder: Path, stats: Mapping[str, Any], embedded: int, catalog: pl.DataFrame) -> Page:
    """Which model made how many vectors how fast, what is near to what, and a map."""
    from genrec_core.embedding.item_embeddings import ItemEmbeddings
    from genrec_core.evaluation.pages.catalog import departments, largest
    from genrec_core.evaluation.pages.embeddings import embedding_picture, nearest_items

    vectors = ItemEmbeddings.load(folder)
    groups = largest(departments(catalog["categories"]), _DEPARTMENTS).to_list()
    names = catalog.select(pl.coalesce("title", "text")).to_series().to_list()
    return {
        "dagster/row_count": dg.MetadataValue.int(stats["items"]),
        "model": dg.MetadataValue.text(stats["model"]),
        "dimensions": dg.MetadataValue.int(stats["dim"]),
        "texts_embedded": dg.MetadataValue.int(embedded),
        "texts_taken_over": dg.MetadataValue.int(stats["items"] - embedded),
        "seconds": dg.MetadataValue.float(stats["seconds"]),
        "nearest_by_text": dg.MetadataValue.md(markdown_table(nearest_items(vectors, names, shown=6, neighbors=3))),
        "plots": picture(embedding_picture(vectors, groups), "length of the vectors, and the catalogue by text"),
        "summary": dg.MetadataValue.json(dict(stats)),
    }


def semantic_ids_page(folder: Path, summary: Mapping[str, Any], texts: list[str]) -> Page:
    """How well the codebooks are used, what collides, and which items begin alike."""
    from genrec_core.evaluation.pages.semantic_ids import codebook_picture, shared_prefixes
    from genrec_core.quantization.semantic_ids import SemanticIds

    ids = SemanticIds.load(folder)
    alike = shared_prefixes(ids, texts, shown=2, members=3)
    return {
        "dagster/row_count": dg.MetadataValue.int(summary["items"]),
        "levels": table(_levels(summary)),
        "items_that_share_all_levels": dg.MetadataValue.int(summary["collided_items"]),
        "deepest_suffix": dg.MetadataValue.int(summary["deepest_suffix"]),
        "items_that_begin_alike": dg.MetadataValue.md(markdown_table(alike)),
        "plots": picture(codebook_picture(summary, ids.codes), "use of the codebooks, and of the suffix"),
        "summary": dg.MetadataValue.json(dict(summary)),
    }


def _levels(summary: Mapping[str, Any]) -> list[Row]:
    """One row a level: its centroids, how many are in use, and what they explain."""
    names = {
        "in use": "codebook_use",
        "entropy bits": "codebook_entropy_bits",
        "prefixes": "unique_prefixes",
        "error left": "reconstruction_error",
    }
    values = zip(*(summary[name] for name in names.values()), strict=True)
    sizes = summary["level_sizes"]
    return [
        {"level": level, "centroids": size, **dict(zip(names, row, strict=True))}
        for level, (size, row) in enumerate(zip(sizes, values, strict=False), start=1)  # the suffix has no codebook
    ]


def _quantiles(values: pl.Series) -> list[Row]:
    shares = {"shortest": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "99 %": 0.99, "longest": 1.0}
    return [{"quantile": name, "items": values.quantile(share, "nearest")} for name, share in shares.items()]
