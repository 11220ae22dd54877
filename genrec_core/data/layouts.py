"""The known forms of tables: the names of their files, and what their names of columns do not tell.

A new form is one entry of ``LAYOUTS``. P5's three files are no tables; see ``p5.py``.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import NamedTuple

COMPRESSIONS = (".gz", ".zst")
_NOTHING: Mapping[str, str] = MappingProxyType({})


class TableForm(NamedTuple):
    """One table of a layout."""

    names: tuple[str, ...]  # patterns of file names in lower case, without .gz or .zst
    columns: Mapping[str, str] = _NOTHING  # meaning -> column, where the name does not tell
    left_out: tuple[str, ...] = ()  # columns that do not describe an item
    header: tuple[str, ...] = ()  # names of the columns of files without a line of names
    separator: str | None = None  # of CSV; None: found in the first line, and quotes are read
    encoding: str = "utf-8"
    flags: tuple[str, ...] = ()  # columns of 0 and 1 that name the categories of an item


class Layout(NamedTuple):
    """A known form of data: one table of interactions, and perhaps one of items."""

    name: str
    interactions: TableForm
    items: TableForm
    needs_items: bool = False  # whether the interactions' names alone do not tell this layout


_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_AMAZON_LEFT_OUT = (
    "also_buy", "also_view", "also_viewed", "asin", "bought_together", "date", "details", "fit", "image", "imUrl",
    "imageURL", "imageURLHighRes", "images", "main_cat", "rank", "related", "salesRank", "similar_item", "tech1",
    "tech2", "videos", "average_rating", "rating_number", "subtitle", "author",
)  # fmt: skip
_AMAZON_2018 = {"user": "reviewerID", "item": "asin", "time": "unixReviewTime", "weight": "overall"}
_AMAZON_2023 = {"user": "user_id", "item": "parent_asin", "time": "timestamp", "weight": "rating"}

LAYOUTS = (
    Layout(
        "MovieLens (ratings.csv, movies.csv)",
        TableForm(("ratings.csv",)),
        TableForm(("movies.csv",)),
        needs_items=True,
    ),
    Layout(
        "MovieLens (ratings.dat, movies.dat)",
        TableForm(("ratings.dat",), header=("user", "item", "rating", "timestamp"), separator="::"),
        TableForm(("movies.dat",), header=("item", "title", "genres"), separator="::", encoding="latin-1"),
    ),
    Layout(
        "MovieLens (u.data, u.item)",
        TableForm(("u.data",), header=("user", "item", "rating", "timestamp"), separator="\t"),
        TableForm(
            ("u.item",),
            header=("item", "title", "release_date", "video_release_date", "imdb_url", *_GENRES),
            separator="|",
            encoding="latin-1",
            flags=_GENRES[1:],
        ),
    ),
    Layout(
        "Amazon reviews 2023 (JSON lines)",
        TableForm(("*.jsonl",), _AMAZON_2023),
        TableForm(("meta_*.jsonl",), {"item": "parent_asin", "brand": "store"}, _AMAZON_LEFT_OUT),
        needs_items=True,
    ),
    Layout(
        "Amazon reviews 2014 (JSON lines)",
        TableForm(("reviews_*.json",), _AMAZON_2018),
        TableForm(("meta_*.json",), {"item": "asin"}, _AMAZON_LEFT_OUT),
    ),
    Layout(
        "Amazon reviews 2018 (JSON lines)",
        TableForm(("*.json",), _AMAZON_2018),
        TableForm(("meta_*.json",), {"item": "asin", "categories": "category"}, _AMAZON_LEFT_OUT),
        needs_items=True,
    ),
    Layout(
        "RecBole (atomic files)",
        TableForm(("*.inter",), separator="\t"),
        TableForm(("*.item",), separator="\t"),
    ),
    Layout(
        "Gorse (feedback, items)",
        TableForm(("feedback.*",), {"event": "feedback_type", "time": "time_stamp"}),
        TableForm(("items.*",), {"title": "comment"}, left_out=("is_hidden", "time_stamp")),
    ),
    Layout("tables", TableForm(("interactions.*", "interactions/*")), TableForm(("items.*", "items/*"))),
)
ONE_TABLE = Layout("one table", TableForm(("*",)), TableForm(()))


def plain_name(path: str) -> str:
    """The path in lower case, without the ending of a compression."""
    name = path.lower()
    return name.removesuffix(next(filter(name.endswith, COMPRESSIONS), ""))


def matching(form: TableForm, paths: Iterable[str]) -> list[str]:
    """The paths, relative to the data's folder, that belong to a table, sorted; below it only by a name with ``/``."""
    return sorted(
        path
        for path in paths
        if any(fnmatchcase(plain_name(path), name) and ("/" in name or "/" not in path) for name in form.names)
    )
