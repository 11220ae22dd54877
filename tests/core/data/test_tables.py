"""Tables of any shop: one small shop in every known layout, and what is wrong with a table is said in one line."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_core.data.sources import Tables, load_tables, read_catalog, receive_raw
from genrec_core.errors import GenrecError
from genrec_core.settings import DEFAULT_TEXT_TEMPLATE, CatalogSettings, DataSettings

Bought = Sequence[tuple[str, str, int, int]]
Titles = dict[str, str]
Files = dict[str, str | bytes | pl.DataFrame]

# user, item, rating, seconds; in file order, which is not the order of time
BOUGHT = [
    ("u2", "b-2", 5, 1_400_000_300),
    ("u1", "b-1", 3, 1_400_000_200),
    ("u1", "b-3", 4, 1_400_000_100),
    ("u2", "b-1", 2, 1_400_000_100),
    ("u1", "b-2", 5, 1_400_000_300),
]
HISTORIES = {"u2": ["b-1", "b-2"], "u1": ["b-3", "b-1", "b-2"]}
TITLES = {"b-1": "Tea & Honey", "b-2": "Cup, blue", "b-3": 'The "Pot"', "b-4": "Never bought"}
NUMBERS = {"u1": "1", "u2": "2", "b-1": "11", "b-2": "12", "b-3": "13", "b-4": "14"}


def csv_lines(rows: Sequence[Sequence[Any]], separator: str = ",") -> str:
    def cell(value: Any) -> str:
        text = str(value)
        return '"' + text.replace('"', '""') + '"' if separator in text or '"' in text else text

    return "".join(separator.join(map(cell, row)) + "\n" for row in rows)


def json_lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(folder: Path, files: Mapping[str, str | bytes | pl.DataFrame]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pl.DataFrame):
            content.write_parquet(path)
        else:
            data = content.encode() if isinstance(content, str) else content
            path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def generic(**more: str | bytes | pl.DataFrame) -> Files:
    return LAYOUTS["tables"](BOUGHT, TITLES) | more


def numbered() -> list[tuple[str, str, int, int]]:
    return [(NUMBERS[user], NUMBERS[item], rating, time) for user, item, rating, time in BOUGHT]


def frames(bought: Bought, titles: Titles) -> Files:
    rows = pl.DataFrame(bought, schema=["user", "item", "rating", "time"], orient="row")
    items = pl.DataFrame({"item": list(titles), "name": list(titles.values())})
    return {
        "interactions/a.parquet": rows[:2],
        "interactions/b.parquet": rows[2:],
        "items.parquet": items,
    }


def reviews(bought: Bought, **more: Any) -> str:
    rows = ({"reviewerID": u, "asin": i, "overall": r, "unixReviewTime": t, **more} for u, i, r, t in bought)
    return json_lines(list(rows))


def described(titles: Titles, id_name: str, **more: Any) -> list[dict[str, Any]]:
    return [{id_name: item, "title": title, **more} for item, title in titles.items()]


LAYOUTS: dict[str, Callable[[Bought, Titles], Files]] = {
    "tables": lambda bought, titles: {
        "interactions.csv": csv_lines([("user_id", "item_id", "rating", "timestamp"), *bought]),
        "items.csv": csv_lines([("item_id", "title"), *titles.items()]),
    },
    "tables, semicolons": lambda bought, titles: {
        "interactions.csv": csv_lines([("User ID", "Item ID", "stars", "Date"), *bought], ";"),
        "items.tsv.gz": csv_lines([("sku", "name"), *titles.items()], "\t"),
    },
    "tables, Parquet in parts": frames,
    "tables, JSON lines": lambda bought, titles: {
        "interactions.jsonl.gz": json_lines([{"userId": u, "itemId": i, "ts": t * 1000} for u, i, _, t in bought]),
        "items.json": json.dumps([{"id": item, "title": title} for item, title in titles.items()]),
    },
    "MovieLens (ratings.csv, movies.csv)": lambda bought, titles: {
        "ratings.csv": csv_lines([("userId", "movieId", "rating", "timestamp"), *bought]),
        "movies.csv": csv_lines([("movieId", "title", "genres"), *((i, t, "Comedy|Drama") for i, t in titles.items())]),
        "tags.csv": "userId,movieId,tag,timestamp\n",
    },
    "MovieLens (ratings.dat, movies.dat)": lambda bought, titles: {
        "ratings.dat": csv_lines(bought, "::"),
        "movies.dat": "".join(f"{i}::{t}::Comedy|Drama\n" for i, t in titles.items()).encode("latin-1"),
    },
    "MovieLens (u.data, u.item)": lambda bought, titles: {
        "u.data": csv_lines(bought, "\t"),
        "u.item": "".join(f"{i}|{t}|01-Jan-1995||http://x|0|0|0|0|0|1|0|0|1{'|0' * 10}\n" for i, t in titles.items()),
    },
    "Amazon reviews 2014 (JSON lines)": lambda bought, titles: {
        "reviews_Beauty.json.gz": reviews(bought, helpful=[0, 1], reviewTime="05 13, 2014"),
        "meta_Beauty.json.gz": "".join(
            f"{entry!r}\n" for entry in described(titles, "asin", categories=[["Beauty", "Tea"]], imUrl="http://x")
        ),
    },
    "Amazon reviews 2018 (JSON lines)": lambda bought, titles: {
        "All_Beauty_5.json.gz": reviews(bought, verified=True),
        "meta_All_Beauty.json.gz": json_lines(
            described(titles, "asin", category=["Beauty"], price="$9.99 - $14.99", also_buy=["B01"])
        ),
    },
    "Amazon reviews 2023 (JSON lines)": lambda bought, titles: {
        "All_Beauty.jsonl": json_lines(
            [{"user_id": u, "asin": "x", "parent_asin": i, "rating": r, "timestamp": 1000 * t} for u, i, r, t in bought]
        ),
        "meta_All_Beauty.jsonl": json_lines(
            described(titles, "parent_asin", store="Leaf", details={"kg": 1}, features=["soft", "blue"])
        ),
    },
    "RecBole (atomic files)": lambda bought, titles: {
        "shop.inter": csv_lines([("user_id:token", "item_id:token", "rating:float", "timestamp:float"), *bought], "\t"),
        "shop.item": "item_id:token\titem_title:token_seq\tclass:token_seq\n"
        + "".join(f"{i}\t{t}\tComedy Drama\n" for i, t in titles.items()),
    },
    "Gorse (feedback, items)": lambda bought, titles: {
        "feedback.csv": csv_lines(
            [
                ("feedback_type", "user_id", "item_id", "time_stamp"),
                *(("read", u, i, datetime.fromtimestamp(t, UTC).isoformat()) for u, i, _, t in bought),
            ]
        ),
        "items.csv": csv_lines(
            [("item_id", "is_hidden", "categories", "comment"), *((i, 0, "Tea", t) for i, t in titles.items())]
        ),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_shop_reads_alike_in_every_layout(layout: str, tmp_path: Path) -> None:
    facts = receive_raw(str(write(tmp_path / "shop", LAYOUTS[layout](BOUGHT, TITLES))), tmp_path / "raw")
    assert facts["layout"] == layout.partition(",")[0] if layout.startswith("tables") else facts["layout"] == layout
    tables = load_tables(tmp_path / "raw")
    assert dict(tables.histories.select("user_id", "item_ids").iter_rows()) == HISTORIES
    assert tables.histories["times"].to_list() == [
        [1_400_000_100, 1_400_000_300],
        [1_400_000_100, 1_400_000_200, 1_400_000_300],
    ]
    assert dict(tables.items.select("item_id", "title").iter_rows()) == TITLES
    assert (facts["users"], facts["items"], facts["interactions"], facts["cleaning"]) == (2, 4, 5, [])


def test_a_table_that_asks_for_whole_numbers_gets_them(tmp_path: Path) -> None:
    rows = csv_lines([("user_id", "item_id", "rating", "timestamp"), *numbered()])
    receive_raw(str(write(tmp_path / "shop", {"interactions.csv": rows})), tmp_path / "raw")
    tables = load_tables(tmp_path / "raw")
    assert tables.histories["item_ids"].to_list() == [[11, 12], [13, 11, 12]]
    assert tables.items["item_id"].to_list() == [11, 12, 13]
    assert read_catalog(tmp_path / "raw", CatalogSettings())["text"].to_list() == [
        "Item: 11;",
        "Item: 12;",
        "Item: 13;",
    ]


@pytest.mark.parametrize(
    "ids",
    [["007", "7"], ["9223372036854775808", "1"], ["a,b", "c d"], ["1.0", "2"], ["\u00fc/\u4e2d", "-0"], ["1e3", "+5"]],
)
def test_ids_come_out_as_they_went_in(ids: list[str], tmp_path: Path) -> None:
    rows = csv_lines([("user_id", "item_id"), *(("x", item) for item in ids)])
    receive_raw(str(write(tmp_path / "shop", {"interactions.csv": rows})), tmp_path / "raw")
    assert load_tables(tmp_path / "raw").histories["item_ids"].to_list() == [ids]


def test_numbers_that_pandas_made_floats_are_whole_again(tmp_path: Path) -> None:
    bought = pl.DataFrame(
        {"user_id": [1.0, 1.0, None], "item_id": [5.0, 7.0, 5.0], "date": ["2024-01-02", "2024-01-01", "x"]}
    )
    with pytest.raises(
        GenrecError, match=r"interactions.parquet: row 3: column date: 'x' is not seconds since 1970, or a date"
    ):
        receive_raw(str(write(tmp_path / "shop", {"interactions.parquet": bought})), tmp_path / "raw")
    facts = receive_raw(str(write(tmp_path / "shop", {"interactions.parquet": bought.drop("date")})), tmp_path / "raw")
    assert load_tables(tmp_path / "raw").histories.to_dicts() == [{"user_id": "1", "item_ids": [5, 7]}]
    assert [step["interactions"] for step in facts["cleaning"]] == [1]


def test_the_text_takes_what_describes_an_item(tmp_path: Path) -> None:
    items = [
        {
            "item_id": f"x{n}",
            "main_category": "Kitchen",
            "title": f"<b>Pot</b> &amp; lid {n}",
            "price": "1.299,50 €",
            "image": "https://a/b.png",
            "ean": f"40063813339{n}",
            "also": [f"B0{n}", f"B1{n}"],
            "details": {"kg": 1},
            "tags": ["iron", "black"],
            "year": 1990 + n,
            "none": None,
        }
        for n in range(4)
    ]
    shop = write(tmp_path / "shop", generic(**{"items.jsonl": json_lines(items)}))
    (shop / "items.csv").unlink()
    facts = receive_raw(str(shop), tmp_path / "raw")
    uses = {row["column"]: row["taken for"] for row in facts["columns"] if row["table"].startswith("items")}
    assert uses == {
        "item_id": "item",
        "main_category": "text",
        "title": "title",
        "price": "price",
        "tags": "text",
        "image": "left out: addresses",
        "ean": "left out: ids",
        "also": "left out: ids",
        "details": "left out: nested",
        "year": "number",
        "none": "left out: empty",
    }
    catalog = read_catalog(tmp_path / "raw", CatalogSettings())
    assert catalog.filter(pl.col("item_id") == "x3")["text"].to_list() == [
        "Title: Pot & lid 3; Main category: Kitchen; Price: 1299.50; Tags: iron; black; Year: 1993;"
    ]
    assert facts["items"] == 7, "three items are bought that the table does not list"


def test_each_step_of_cleaning_is_counted(tmp_path: Path) -> None:
    rows = [("u", f"i{n % 4}", "view" if n % 5 else "buy", n // 2, n) for n in range(40)]
    rows += [("u", "i3", "buy", 19, 39), ("", "i1", "buy", 3, 1), ("v", "i1", "buy", 9, 5)]
    table = csv_lines([("user", "item", "event", "rating", "time"), *rows])
    shop = write(tmp_path / "shop", {"interactions.csv": table})
    cleaned = DataSettings(events=["buy", "view"], least_rating=2, k_core=2, most_interactions=20, least_interactions=2)
    facts = receive_raw(str(shop), tmp_path / "raw", settings=cleaned)
    assert [(step["step"].split()[0], step["interactions"]) for step in facts["cleaning"]] == [
        ("without", 1),
        ("rated", 4),
        ("repeated:", 1),
        ("outside", 1),
        ("older", 16),
    ]
    assert facts["events"] == {"view": 32, "buy": 10}
    assert load_tables(tmp_path / "raw").histories["times"].to_list() == [list(range(20, 40))]
    assert receive_raw(str(shop), tmp_path / "raw", settings=DataSettings(events=["buy"]))["interactions"] == 10


def test_unlisted_items_are_kept_or_dropped_and_counted(tmp_path: Path) -> None:
    files = generic(**{"items.csv": csv_lines([("item_id", "title"), ("b-1", "Tea")])})
    facts = receive_raw(str(write(tmp_path / "shop", files)), tmp_path / "raw")
    assert (facts["items"], facts["interactions_with_unlisted_items"], facts["items_without_meta"]) == (3, 3, 2)
    facts = receive_raw(str(tmp_path / "shop"), tmp_path / "raw", settings=DataSettings(unknown_items="drop"))
    assert (facts["items"], facts["interactions"], facts["cleaning"][0]["interactions"]) == (1, 2, 3)


def test_own_vectors_are_read_from_a_column_or_from_an_array(tmp_path: Path) -> None:
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    items = pl.DataFrame({"item_id": list(TITLES), "title": list(TITLES.values()), "vector": vectors.tolist()})
    shop = write(tmp_path / "shop", generic(**{"items.parquet": items}))
    (shop / "items.csv").unlink()
    receive_raw(str(shop), tmp_path / "raw")
    assert load_tables(tmp_path / "raw").items["vector"].to_numpy().tolist() == vectors.tolist()
    shop = write(tmp_path / "other", generic(**{"vector_ids.txt": "b-3\nb-1\n"}))
    np.save(shop / "vectors.npy", vectors[:2])
    receive_raw(str(shop), tmp_path / "raw")
    assert load_tables(tmp_path / "raw").items["vector"].to_list() == [[2, 3], None, [0, 1], None]


PAIR = "user_id,item_id\na,b\n"


@pytest.mark.parametrize(
    ("content", "chosen", "message"),
    [
        ("user_id,customer_id,item_id\na,b,c\n", {}, "user_id and customer_id could both be the user; say which"),
        ("who,item_id\na,c\n", {}, r"no column is known as the user; name it.*\{user: who\}.* who, item_id"),
        ("user_id,item_id\na,b,c\n", {}, "line 2: 3 cells, but 2 columns"),
        ('user_id,item_id\na,"b\n', {}, "interactions.csv: line 2: unexpected end of data"),
        (b"user_id,item_id\na,b\na,\xff\n", {}, "interactions.csv: line 3: not UTF-8"),
        ("", {}, "interactions.csv: is empty"),
        ("user_id,item_id\n", {}, "none of 0 interactions is left"),
        ("user_id,item_id,timestamp\na,b,soon\na,b,5\n", {}, "row 1: column timestamp: 'soon' is not seconds"),
        (PAIR, {"columns": {"buyer": "user_id"}}, "buyer is no meaning of a column"),
        (PAIR, {"columns": {"user": "buyer"}}, "no table has the column buyer"),
        (PAIR, {"events": ["buy"]}, "events: the interactions have no column for it"),
        ("a,b,1\n", {"header": ["user", "item"]}, "has 3 columns, not the 2 named"),
        ({"interactions.jsonl": '{"user_id": 1, "item_id": 2}\n{"user_id": 1\n'}, {}, "jsonl: line 2: neither JSON"),
        ({"interactions.parquet": b"PAR1 cut"}, {}, "interactions.parquet: "),
        ({"clicks.csv": PAIR, "pages.csv": "a\n"}, {}, r"neither interactions.csv .* but clicks.csv, pages.csv"),
        ({"interactions.csv": PAIR, "items.csv": "name\nx\n"}, {}, "items.csv: no column is known as the item"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    content: str | bytes | dict[str, str | bytes], chosen: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "shop", content if isinstance(content, dict) else {"interactions.csv": content})
    with pytest.raises(GenrecError, match=message) as caught:
        receive_raw(str(tmp_path / "shop"), tmp_path / "raw", settings=DataSettings(**chosen))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "raw").exists()


def test_a_table_without_a_line_of_names_gets_them_by_a_setting(tmp_path: Path) -> None:
    shop = write(tmp_path / "shop", {"ratings_Beauty.csv": csv_lines(BOUGHT)})
    receive_raw(str(shop), tmp_path / "raw", settings=DataSettings(header=["user", "item", "rating", "time"]))
    assert dict(load_tables(tmp_path / "raw").histories.select("user_id", "item_ids").iter_rows()) == HISTORIES
    receive_raw(
        str(shop / "ratings_Beauty.csv"),
        tmp_path / "raw",
        settings=DataSettings(header=["user", "item", "rating", "time"]),
    )
    assert load_tables(tmp_path / "raw").histories.height == 2


def test_files_of_any_name_are_named_by_settings(tmp_path: Path) -> None:
    files = LAYOUTS["tables"](BOUGHT, TITLES)
    named = {
        "2024/Sales.csv": files["interactions.csv"],
        "2024/articles.csv": files["items.csv"],
        "customers.csv": "a\n",
        "stores.csv": "a\n",
    }
    shop = write(tmp_path / "shop", named)
    with pytest.raises(
        GenrecError, match=r"but 2024, customers.csv, stores.csv; name the file in the setting interactions"
    ):
        receive_raw(str(shop), tmp_path / "raw")
    chosen = DataSettings(interactions="2024/sales.csv", items="2024/articles.csv")
    assert receive_raw(str(shop), tmp_path / "raw", settings=chosen)["items"] == 4
    with pytest.raises(GenrecError, match=r"no sold.csv, as the setting interactions says, but 2024, customers.csv"):
        receive_raw(str(shop), tmp_path / "raw", settings=DataSettings(interactions="sold.csv"))


CELLS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=12))
def test_any_table_is_read_or_refused_in_one_line(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    """Whatever the cells are, ids are those of the table without white space around them, in its order."""
    write(tmp_path / "shop", {"interactions.parquet": pl.DataFrame(rows, schema=["user", "item"], orient="row")})
    wanted: dict[str, list[str]] = {}
    for user, item in rows:
        if user.strip() and item.strip():
            wanted.setdefault(user.strip(), []).append(item.strip())
    if not wanted:
        with pytest.raises(GenrecError, match="none of"):
            receive_raw(str(tmp_path / "shop"), tmp_path / "raw")
        return
    receive_raw(str(tmp_path / "shop"), tmp_path / "raw")
    read = {user: [str(item) for item in items] for user, items in load_tables(tmp_path / "raw").histories.iter_rows()}
    assert read == wanted


def through_reviews(p5: Tables, folder: Path, asin: Mapping[int, str]) -> Tables:
    """The shop of P5's files, written as Amazon's reviews of 2014 with rising times, and read again."""
    rows = [
        {"reviewerID": user, "asin": asin[item], "overall": 5.0, "unixReviewTime": 1_400_000_000 + 60 * place}
        for user, items in p5.histories.iter_rows()
        for place, item in enumerate(items)
    ]
    meta = [
        {
            "asin": asin[row["item_id"]],
            **{name: row[name] for name in ("title", "brand", "price") if row[name] is not None},
            "categories": [path.split(" > ") for path in (row["categories"] or "").split("; ") if path],
        }
        for row in p5.items.iter_rows(named=True)
    ]
    write(folder / "shop", {"reviews_Shop_5.json.gz": json_lines(rows), "meta_Shop.json.gz": json_lines(meta)})
    receive_raw(str(folder / "shop"), folder / "raw")
    return load_tables(folder / "raw")


def require_same_shop(raw: Path, folder: Path, numbered: bool) -> None:
    """With their numbers as ids, all is equal, so that codes, training and figures are; else all but the ids."""
    p5, catalog = load_tables(raw), read_catalog(raw, CatalogSettings())
    asin = {row: str(row) if numbered else name for row, name in p5.items.select("item_id", "source_id").iter_rows()}
    tables = through_reviews(p5, folder, asin)
    assert tables.histories["user_id"].equals(p5.histories["user_id"])
    histories = p5.histories["item_ids"].to_list()
    wanted = histories if numbered else [[asin[item] for item in items] for items in histories]
    assert tables.histories["item_ids"].to_list() == wanted
    texts = {asin[item]: text for item, text in catalog.select("item_id", "text").iter_rows()}
    read = read_catalog(folder / "raw", CatalogSettings(text_template=DEFAULT_TEXT_TEMPLATE))
    assert {str(item): text for item, text in read.select("item_id", "text").iter_rows()} == texts
    if numbered:
        assert read.drop("description").equals(catalog.drop("description"))


@pytest.mark.parametrize("numbered", [True, False])
def test_the_same_shop_through_reviews_and_through_p5(sample_folder: Path, tmp_path: Path, numbered: bool) -> None:
    require_same_shop(sample_folder, tmp_path, numbered)


@pytest.mark.parametrize("numbered", [True, False])
def test_beauty_through_reviews_and_through_p5(beauty_folder: Path, tmp_path: Path, numbered: bool) -> None:
    require_same_shop(beauty_folder, tmp_path, numbered)
