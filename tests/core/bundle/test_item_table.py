"""The catalogue's columns in a model folder: made, mapped, extended, refused."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.bundle.item_attributes import ItemAttributes
from genrec_core.bundle.item_table import ItemTable
from genrec_core.bundle.model_folder import ITEMS
from genrec_core.bundle.text_column import TextColumn
from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import write_json
from tests.core.conftest import CatalogOf


def test_items_that_the_catalogue_lacks_have_no_values(tmp_path: Path, catalog_of: CatalogOf) -> None:
    ids = np.array([4, 2, 9])
    table = ItemTable.of_catalog(catalog_of(ids[:2]), ids)
    rows = [
        {"title": "Item 0", "brand": "Even", "categories": "All > Tens 0", "price": None},
        {"title": "Item 1", "brand": "Odd", "categories": "All > Tens 0", "price": 1.0},
        dict.fromkeys(("title", "brand", "categories", "price")),
    ]
    assert list(table.rows()) == rows
    table.save(tmp_path)
    loaded = ItemTable.load(tmp_path, ids)
    assert list(loaded.rows()) == rows
    assert [loaded.value("price", row) for row in range(3)] == [None, 1.0, None]
    assert ItemAttributes(table).attribute("brand").present.tolist() == [True, True, False]


def test_columns_are_mapped_and_written_anew_beside_a_table_that_is_read(tmp_path: Path) -> None:
    ids = np.array(["a"])
    ItemTable.of(ids, {"title": ["Soap"], "price": [2]}).save(tmp_path)
    loaded = ItemTable.load(tmp_path, ids)
    title, price = loaded.columns["title"], loaded.columns["price"]
    assert isinstance(title, TextColumn)
    arrays = (title.texts.letters, title.texts.ends, title.text_of_item, price)
    assert all(isinstance(array.base, np.memmap) for array in arrays)
    loaded.with_new(np.array(["b"]), [{"title": "Balm"}]).save(tmp_path)
    assert [row["title"] for row in loaded.rows()] == ["Soap"]
    assert [row["title"] for row in ItemTable.load(tmp_path, np.array(["a", "b"])).rows()] == ["Soap", "Balm"]


def test_the_words_of_titles_are_mapped_and_know_added_items(tmp_path: Path) -> None:
    ids = np.array(["a", "c"])
    ItemTable.of(ids, {"title": ["Hand soap", None]}).save(tmp_path)
    loaded = ItemTable.load(tmp_path, ids)
    words = loaded.title_words
    assert all(isinstance(array.base, np.memmap) for array in (words.words.letters, words.ends, words.texts))
    assert words.texts_with(["so"], 2).tolist() == [True, False]
    assert words.texts_with(["item", "c"], 2).tolist() == [False, True]
    loaded.with_new(np.array(["b"]), [{"title": "Soap dish"}]).save(tmp_path)
    added = ItemTable.load(tmp_path, np.array(["a", "c", "b"]))
    assert added.title_words.texts_with(["so"], 3).tolist() == [True, False, True]


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_come_out_as_they_went_in(texts: list[str | None]) -> None:
    column = TextColumn.of(texts)
    assert list(column) == [text or None for text in texts]
    assert [column[row] for row in range(len(column))] == list(column)


def test_further_columns_and_ids_of_text_are_kept(tmp_path: Path) -> None:
    ids = np.array(["b", "a,1"])
    standard = {name: ["x", None] for name in ("title", "brand", "categories")}
    further = {"price": [1.5, float("nan")], "save": ["y", None], "pages": [7, None], "none": None}
    table = ItemTable.of_catalog(pl.DataFrame({"item_id": ids, **standard, **further}), ids[::-1])
    nothing, something = dict.fromkeys(standard), dict.fromkeys(standard, "x")
    rows = [
        {**nothing, "price": None, "save": None, "pages": None},
        {**something, "price": 1.5, "save": "y", "pages": 7.0},
    ]
    assert list(table.rows()) == rows
    table.save(tmp_path)
    assert list(ItemTable.load(tmp_path, ids[::-1]).rows()) == rows
    more = table.with_new(np.array(["c"]), [{"pages": 9.0, "unknown": "z"}])
    assert list(more.rows()) == [*rows, {**nothing, "price": None, "save": None, "pages": 9.0}]
    assert more.item_ids.tolist() == ["a,1", "b", "c"]
    with pytest.raises(GenrecError, match=r"new items: pages 'nine' is no number, unlike the items of the model"):
        table.with_new(np.array(["c"]), [{"pages": "nine"}])


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({"title": "text"}, "lists no columns"),
        ([{"name": "title", "kind": "list"}], "lists no columns"),
        ([{"name": "title", "kind": "text"}], "column title holds 2 items, but the model has 1"),
        ([{"name": "title", "kind": "number"}], r"0\.numbers\.npy: no such file"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, listed: object, said: str) -> None:
    ItemTable.of(np.array([4, 5]), {}).save(tmp_path)
    write_json(tmp_path / ITEMS, listed)
    with pytest.raises(GenrecError, match=said):
        ItemTable.load(tmp_path, np.array([4]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame.drop("brand"), "cannot be read.*brand"),
        (lambda frame: pl.concat([frame, frame[:1]]), "holds item 4 twice"),
        (lambda frame: frame.with_columns(item_id=pl.lit(77)).head(1), "holds no item of the model"),
        (lambda frame: frame.with_columns(price=pl.lit("cheap")), "cannot be read"),
    ],
)
def test_a_catalogue_that_does_not_fit_is_refused(change: object, said: str, catalog_of: CatalogOf) -> None:
    ids = np.array([4, 2])
    assert callable(change)
    with pytest.raises(GenrecError, match=said):
        ItemTable.of_catalog(change(catalog_of(ids)), ids)
