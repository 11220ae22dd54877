"""The assets from the raw files to semantic IDs, and what their pages show."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from genrec_core.data.sources import load_tables, read_catalog, receive_raw, sentence
from genrec_core.data.temporal import split_by_time, split_sentence
from genrec_core.storage.folders import earlier_version
from genrec_dagster.automation import FRESHNESS, fresh_within, rebuilt_asset
from genrec_dagster.config import CatalogForm, ComputeEngine, EmbeddingForm, RawBeautyForm, SemanticIdForm, SplitForm
from genrec_dagster.failures import plain_failures
from genrec_dagster.metadata import (
    Page,
    Row,
    bars,
    columns,
    content_version,
    frame_version,
    hashes,
    page,
    percent,
    picture,
    pictures,
    table,
)
from genrec_dagster.pages import PLOTS, page_link
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
_SHOWN_USERS, _NEWEST = 5, 10  # users, and the newest items of each
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
    item_catalog: pl.DataFrame,
    user_histories: pl.DataFrame,
    config: SemanticIdForm,
    work: WorkFolders,
    engine: ComputeEngine,
) -> dg.MaterializeResult[Path]:
    """The semantic ID of each item: a short code that the model generates number by number. No two items share one.

    Items with similar texts share the first numbers, and so do items that users buy together (by the training part of
    the histories). The last number, the suffix, only tells apart items that share all others. Unchanged items keep
    their codes until the codebooks are fitted again. `codes` opens a page that shows which items share which numbers.
    """
    from genrec_core.quantization.update import refused_by_never, update_semantic_ids

    refused = refused_by_never if config.refit == "never" else None
    earlier = earlier_version("semantic_ids", Path(work.root), context.log.info, refused)
    with work.new(context) as folder, engine.open(context) as computed_by:
        update = update_semantic_ids(item_embeddings, config, folder, earlier, user_histories, computed_by)
        metadata = semantic_ids_page(folder, item_embeddings, item_catalog, update)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


def raw_page(provenance: Mapping[str, Any]) -> Page:
    """What was understood, in one sentence; then the columns, what was left out, the counts and the files."""
    facts: dict[str, Any] = provenance["files"]
    files = [{"file": name, **{key: of[key] for key in of if key != "sha256"}} for name, of in facts.items()]
    tables = {"columns": provenance["columns"], "left_out": provenance["cleaning"], "files": files}
    return page(
        sentence(provenance),
        {name: table(rows) for name, rows in tables.items() if rows},
        {
            **{name: provenance[name] for name in ("users", "items", "interactions")},
            **{name: provenance[name] for name in _RAW_FACTS if name in provenance},
            "without_description": provenance["items_without_meta"],
            "with_unreadable_letters": provenance["items_with_unreadable_letters"],
        },
        {"source": provenance["source"], "sha256": hashes({name: of["sha256"] for name, of in facts.items()})},
    )


def catalog_page(catalog: pl.DataFrame) -> Page:
    """Some items, how many items have each field, the largest departments, and plots."""
    from genrec_core.evaluation.pages.catalog import catalog_picture, departments, field_coverage, largest, spread
    from genrec_core.evaluation.reading import catalog_verdict

    fields = catalog.select(~pl.selectors.nested())  # no vectors
    further = [name for name in fields.columns if name not in (*_SHOWN, *_NOT_SHOWN)]
    some_items = fields[spread(catalog.height, 8)].select(*_SHOWN, *further[:_SHOWN_FURTHER])
    filled = [{**row, "share": percent(float(row["share"]))} for row in field_coverage(fields)]
    names = largest(departments(catalog["categories"]), _DEPARTMENTS)
    sizes = dict(names.value_counts().sort(["count", names.name], descending=[True, False]).iter_rows())
    return page(
        catalog_verdict(catalog),
        {
            "some_items": table(some_items.to_dicts(), longest=60),
            "filled_fields": table(filled, longest=60),
            "departments": table(bars(sizes, "department", "items")),
            "plots": picture(catalog_picture(catalog), "length of the texts, and items by department"),
        },
        {"with_repeated_text": catalog.height - catalog["text"].n_unique()},
        {"dagster/row_count": catalog.height, "dagster/column_schema": columns(catalog, _ITEM_COLUMNS)},
    )


def histories_page(histories: pl.DataFrame) -> Page:
    """Some users, and how long histories and how popular items are."""
    from genrec_core.evaluation.pages.catalog import histories_picture, interactions_by_item, length_counts
    from genrec_core.evaluation.reading import histories_verdict

    some = histories.head(_SHOWN_USERS).select(
        "user_id",
        pl.col("item_ids").list.len().alias("items"),
        pl.col("item_ids").list.tail(_NEWEST).list.eval(pl.element().cast(pl.String)).list.join(", ").alias("newest"),
    )
    return page(
        histories_verdict(histories),
        {
            "split": split_sentence(histories),
            "some_users": table(some.to_dicts()),
            "history_lengths": table(bars(length_counts(histories), "items of the history", "users")),
            "plots": picture(histories_picture(histories), "history length, and popularity of items"),
        },
        {
            "interactions": int(histories["item_ids"].list.len().sum()),
            "different_items_bought": len(interactions_by_item(histories)),
        },
        {"dagster/row_count": histories.height, "dagster/column_schema": columns(histories, _USER_COLUMNS)},
    )


def embeddings_page(folder: Path, stats: Mapping[str, Any], embedded: int, catalog: pl.DataFrame) -> Page:
    """Whether near texts are of one department, the nearest items of some items, and a map of the catalogue."""
    from genrec_core.embedding.item_embeddings import ItemEmbeddings
    from genrec_core.evaluation.meaning import alike_nearest, department_numbers
    from genrec_core.evaluation.pages.catalog import departments, embedding_picture, largest, nearest_items
    from genrec_core.evaluation.reading import embeddings_verdict

    vectors = ItemEmbeddings.load(folder)
    groups = largest(departments(catalog["categories"]), _DEPARTMENTS).to_list()
    names = catalog.select(pl.coalesce("title", "text")).to_series().to_list()
    near: list[Row] = list(nearest_items(vectors, names, shown=6, neighbors=3))
    alike = alike_nearest(vectors.l2norm, department_numbers(catalog)[0])
    shares: Page = {}
    if alike:
        shares = {"same_category_nearest_5": alike.measured, "same_category_by_chance": alike.chance}
    (folder / PLOTS).write_bytes(embedding_picture(vectors, groups))
    shown, copies = pictures(folder, {"plots": (PLOTS, "a map of the items by text")})
    return page(
        embeddings_verdict(stats, alike),
        {
            **shown,
            **({"nearest_by_text": table(near, longest=60)} if near else {}),
        },
        {
            **shares,
            "texts_embedded": embedded,
            "texts_reused": stats["items"] - embedded,
            "embedding_seconds": stats["seconds"],
            "dimensions": stats["dim"],
        },
        {"dagster/row_count": stats["items"], "model": stats["model"], **copies, "summary": dict(stats)},
    )


def semantic_ids_page(folder: Path, embeddings: Path, catalog: pl.DataFrame, update: "Update") -> Page:
    """What the codes say about items, what changed since the last version, and how well the codebooks are used.

    The explorer of the codes is written into ``folder``, too.
    """
    from genrec_core.embedding.item_embeddings import ItemEmbeddings
    from genrec_core.evaluation.meaning import code_meaning, department_numbers
    from genrec_core.evaluation.pages.catalog import codebook_picture
    from genrec_core.evaluation.pages.codes import CODES_FILE, aligned, example_prefixes, write_codes_page
    from genrec_core.quantization.semantic_ids import SemanticIds

    ids, summary = SemanticIds.load(folder), update.summary
    numbers, departments = department_numbers(aligned(catalog, ids.item_ids))
    meaning = code_meaning(ids.codes, numbers, ItemEmbeddings.load(embeddings).l2norm)
    tree = write_codes_page(folder, catalog, meaning)
    purity = {"purity_of_first_number": meaning.purity.measured} if meaning.purity else {}
    (folder / PLOTS).write_bytes(codebook_picture(summary, ids.codes))
    shown, copies = pictures(folder, {"plots": (PLOTS, "use of the codebooks")})
    return page(
        meaning.verdict,
        {
            "codes": page_link(folder, CODES_FILE),
            **shown,
            "some_first_numbers": table(example_prefixes(tree, departments, 8)),
            "levels": table(_levels(summary)),
        },
        {
            **purity,
            **{name: getattr(update, name) for name in ("kept", "assigned", "removed")},
            "refitted": update.refitted or "no",
            "items_sharing_levels": summary["collided_items"],
            "deepest_suffix": summary["deepest_suffix"],
        },
        {"dagster/row_count": summary["items"], **copies, "summary": _without_hash(summary)},
    )


def _without_hash(summary: Mapping[str, Any]) -> dict[str, Any]:
    """``summary.json`` with a short hash of the histories: Dagster breaks no long word, and cuts off what is wide."""
    histories = summary["fit"].get("histories")
    return {**summary, "fit": {**summary["fit"], "histories": histories and f"{histories[:12]}…"}}


def _levels(summary: Mapping[str, Any]) -> list[Row]:
    """One row for each level but the suffix, which has no codebook: its size and the share of it in use.

    ``bits`` is the entropy of its numbers, ``prefixes`` are those in use up to this level, and ``error`` is the share
    of the vectors' variance that is still missing. Dagster cuts off a table whose head is too long, so names are short.
    """
    return [
        {
            "level": level + 1,
            "size": summary["level_sizes"][level],
            "in use": percent(use),
            "bits": float(f"{summary['codebook_entropy_bits'][level]:.3g}"),
            "prefixes": summary["unique_prefixes"][level],
            "error": percent(summary["reconstruction_error"][level]),
        }
        for level, use in enumerate(summary["codebook_use"])
    ]
