"""What a model folder knows of its items beside the model: title, brand, categories and price, for rules over them."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from genrec_core.errors import GenrecError

ITEMS = "items.parquet"
SCHEMA = {
    "item_id": pl.Int64(), "title": pl.String(), "brand": pl.String(), "categories": pl.String(), "price": pl.Float64()
}  # fmt: skip


def item_table(catalog: pl.DataFrame, item_ids: np.ndarray) -> pl.DataFrame:
    """The attributes of ``item_ids`` int64 [n_items], one row each in that order; what ``catalog`` lacks is absent.

    Args:
        catalog: the frame of ``item_catalog``; columns beyond item_id, title, brand, categories and price are left out.
        item_ids: the items of the model; those that got their semantic ID later may be missing in the catalogue.

    Raises:
        GenrecError: a column is missing or of another type, an id comes twice, or no item of the model is in it.
    """
    missing = [name for name in SCHEMA if name not in catalog.columns]
    if missing:
        raise GenrecError(f"the item catalogue has no column {missing[0]}; give the frame of item_catalog")
    try:
        table = catalog.select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())
    except pl.exceptions.PolarsError as error:
        raise GenrecError(f"the item catalogue cannot be read ({error}); give the frame of item_catalog") from error
    repeated = table["item_id"].filter(table["item_id"].is_duplicated())
    if len(repeated):
        raise GenrecError(f"the item catalogue holds item {repeated[0]} twice; keep one row an item")
    wanted = pl.DataFrame({"item_id": item_ids.astype(np.int64)})
    if wanted.join(table, on="item_id", how="semi").is_empty():
        raise GenrecError("the item catalogue holds no item of the model; give the catalogue it was trained on")
    return wanted.join(table, on="item_id", how="left", maintain_order="left")


def folded(text: str) -> str:
    """Lower case, white space folded: what texts are compared by. Polars does it, as it does for the items."""
    return str(_folded(pl.Series([text]))[0])


def _folded(texts: pl.Series) -> pl.Series:
    return texts.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


@dataclass(frozen=True)
class TextAttribute:
    """A text that items have, some of them several times, as distinct values and who has them.

    Args:
        distinct: folded values, each once.
        written: the same as the catalogue writes them.
        row, value: entry by entry a catalogue row and the index of a value of its, int [entries].
        present: rows that have any, bool [n_items].
    """

    distinct: pl.Series
    written: pl.Series
    row: np.ndarray
    value: np.ndarray
    present: np.ndarray

    @classmethod
    def of(cls, entries: pl.DataFrame, n_items: int) -> "TextAttribute":
        """From a frame ``row``, ``text``; empty texts count as absent."""
        entries = entries.with_columns(_folded(entries["text"]).alias("key")).filter(pl.col("key").str.len_bytes() > 0)
        distinct = entries.group_by("key", maintain_order=True).agg(pl.col("text").first()).with_row_index("value")
        value = entries.join(distinct.select("key", "value"), on="key", how="left", maintain_order="left")["value"]
        row = entries["row"].to_numpy()
        present = np.zeros(n_items, dtype=bool)
        present[row] = True
        return cls(distinct["key"], distinct["text"], row, value.to_numpy(), present)

    def where(self, hit: np.ndarray) -> np.ndarray:
        """Rows that have one of the values that ``hit`` marks, bool [n_items]."""
        found = np.zeros(len(self.present), dtype=bool)
        found[self.row[hit[self.value]]] = True
        return found

    def has(self, key: str) -> bool:
        """Whether any item has the folded value ``key``."""
        return bool((self.distinct == key).any())

    def shown(self, key: str) -> str:
        """A folded value as the catalogue writes it."""
        return str(self.written.filter(self.distinct == key)[0])


@dataclass(frozen=True)
class NumberAttribute:
    """A number that items have.

    Args:
        values: float64 or int64 [n_items]; not a number where absent.
        present: bool [n_items].
    """

    values: np.ndarray
    present: np.ndarray


class ItemAttributes:
    """The attributes that rules compare, by catalogue row; each is indexed when a rule first asks for it.

    Args:
        table: as :func:`item_table` gives it.
    """

    def __init__(self, table: pl.DataFrame) -> None:
        self._table = table

    @classmethod
    def load(cls, model_dir: Path, item_ids: np.ndarray) -> "ItemAttributes":
        """Read ``items.parquet``.

        Raises:
            GenrecError: it is missing, cannot be read, or holds other items than the model.
        """
        path = model_dir / ITEMS
        if not path.is_file():
            raise GenrecError(
                f"{model_dir}: holds no {ITEMS}, which rules need; export the model again with its catalogue "
                "(genrec export --catalog, or the asset onnx_encoder)"
            )
        try:
            table = pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise GenrecError(f"{path}: cannot be read ({error}); export the model again") from error
        if table.schema != pl.Schema(SCHEMA) or not np.array_equal(table["item_id"].to_numpy(), item_ids):
            raise GenrecError(f"{path}: does not hold the items of the model; export it again")
        return cls(table)

    def attribute(self, field: str) -> TextAttribute | NumberAttribute:
        """The attribute behind a field of a rule: ``brand``, ``category``, ``title``, ``price`` or ``item_id``."""
        found: TextAttribute | NumberAttribute = getattr(self, field)
        return found

    @cached_property
    def brand(self) -> TextAttribute:
        """One at most an item."""
        return self._text(pl.col("brand"))

    @cached_property
    def title(self) -> TextAttribute:
        """One at most an item."""
        return self._text(pl.col("title"))

    @cached_property
    def category(self) -> TextAttribute:
        """Every name of every path: ``Beauty > Nails; Gifts > Women`` is Beauty, Nails, Gifts and Women."""
        return self._text(pl.col("categories").str.replace_all("; ", " > ", literal=True).str.split(" > "))

    @cached_property
    def price(self) -> NumberAttribute:
        """Absent prices are not numbers."""
        values = self._table["price"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return NumberAttribute(values, np.isfinite(values))

    @cached_property
    def item_id(self) -> NumberAttribute:
        """Every item has one."""
        return NumberAttribute(self._table["item_id"].to_numpy(), np.ones(self._table.height, dtype=bool))

    def _text(self, column: pl.Expr) -> TextAttribute:
        entries = self._table.select(column.alias("text")).with_row_index("row")
        if isinstance(entries.schema["text"], pl.List):
            entries = entries.explode("text")
        return TextAttribute.of(entries.drop_nulls("text"), self._table.height)
