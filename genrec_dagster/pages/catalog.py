"""The metadata of the assets from the raw files to semantic IDs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from genrec_dagster.metadata import Page, Row, columns, markdown, picture, table

if TYPE_CHECKING:
    from genrec_core.quantization.update import Update

_ITEM_COLUMNS = {
    "item_id": "the data set's own id",
    "categories": "paths from the root, `A > B > C`, joined by `; `",
    "text": "the text that the embedding model reads",
}
_USER_COLUMNS = {"user_id": "the data set's own id", "item_ids": "the items that the user bought, oldest first"}
_SHOWN = ("item_id", "title", "brand", "categories", "price")
_DEPARTMENTS = 7  # the map has eight colours; one is for all other departments


def raw_page(provenance: Mapping[str, Any]) -> Page:
    """Where the files came from, and what is in them."""
    files: list[Row] = [{"file": name, **facts} for name, facts in provenance["files"].items()]
    return {
        "source": provenance["source"],
        "files": table(files),
        **{name: provenance[name] for name in ("users", "items", "interactions")},
        "items_without_description": provenance["items_without_meta"],
        "items_with_unreadable_letters": provenance["items_with_unreadable_letters"],
    }


def catalog_page(catalog: pl.DataFrame) -> Page:
    """The columns, some items, how many items have each field, and plots."""
    from genrec_core.evaluation.pages.catalog import catalog_picture, field_coverage, spread

    return {
        "dagster/row_count": catalog.height,
        "dagster/column_schema": columns(catalog, _ITEM_COLUMNS),
        "some_items": markdown(catalog[spread(catalog.height, 8)].select(_SHOWN).to_dicts()),
        "filled_fields": table(field_coverage(catalog)),
        "plots": picture(catalog_picture(catalog), "length of the texts, and items by department"),
        "items_with_repeated_text": catalog.height - catalog["text"].n_unique(),
    }


def histories_page(histories: pl.DataFrame) -> Page:
    """The columns, some users, and plots of how long histories and how popular items are."""
    from genrec_core.evaluation.pages.catalog import histories_picture, interactions_by_item

    return {
        "dagster/row_count": histories.height,
        "dagster/column_schema": columns(histories, _USER_COLUMNS),
        "some_users": markdown(histories.head(5).to_dicts()),
        "interactions": int(histories["item_ids"].list.len().sum()),
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
        "plots": picture(codebook_picture(summary, ids.codes), "use of the codebooks, and of the suffix"),
        "summary": dict(summary),
    }
