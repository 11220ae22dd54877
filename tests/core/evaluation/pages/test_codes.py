"""The page of semantic IDs shows each item below its own prefix, escapes titles, and stays small."""

import html
import json
import re
from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec_core.evaluation.meaning import CodeMeaning, Share
from genrec_core.evaluation.pages import codes
from genrec_core.evaluation.pages.codes import CodeTree, codes_page
from genrec_core.quantization.semantic_ids import SemanticIds, suffixes_of

MEANING = CodeMeaning(Share(0.6, 0.2), Share(0.7, 0.3), None)


def shop(items: int, title: str = "Soap {}") -> tuple[SemanticIds, pl.DataFrame]:
    random = np.random.default_rng(3)
    numbers = np.column_stack([random.integers(0, size, items) for size in (3, 4)]).astype(np.int32)
    suffixes = suffixes_of(numbers)
    ids = SemanticIds(np.arange(items), np.column_stack([numbers, suffixes]), (3, 4, int(suffixes.max()) + 1))
    categories = [f"Beauty > Shelf {row % 2}" if row % 5 else None for row in range(items)]
    titles = [title.format(row) for row in range(items)]
    return ids, pl.DataFrame({"item_id": range(items), "title": titles, "categories": categories})


def embedded(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data: dict[str, Any] = json.loads(text)
    return data


def walked(prefixes: list[Any], before: str = "") -> list[tuple[str, list[Any]]]:
    """Every prefix of a tree, as text, with what the page knows of it."""
    named = [(f"{before}{prefix[0]}", prefix) for prefix in prefixes]
    return [entry for name, prefix in named for entry in [(name, prefix), *walked(prefix[6], f"{name}-")]]


def test_every_item_stands_below_its_own_prefix() -> None:
    ids, catalog = shop(60)
    data = embedded(codes_page(ids, catalog, MEANING)[0])
    shown = {}
    for name, (_, count, department, purity, _, samples, below, alone) in walked(data["prefixes"]):
        members = [row for row in range(60) if "-".join(map(str, ids.codes[row].tolist())).startswith(f"{name}-")]
        assert count == len(members)
        of = [0 if row % 2 == 0 else 1 for row in members if row % 5]
        assert purity == round(100 * max((of.count(number) for number in (0, 1)), default=0) / count)
        assert not of or of.count(department) == max(of.count(0), of.count(1))
        assert {int(data["items"][place][2]) for place in samples} <= set(members)
        assert bool(below) != bool(alone)
        shown |= {int(data["items"][place][2]): data["items"][place][0] for place in alone}
    assert shown == {row: "-".join(map(str, ids.codes[row].tolist())) for row in range(60)}
    assert data["departments"] == ["Shelf 0", "Shelf 1"]


def test_titles_cannot_leave_the_page_s_data() -> None:
    title = '</script><script>alert("{}")</script> & <b>'
    page, _ = codes_page(*shop(30, title), MEANING)
    assert "<script>alert" not in page
    assert embedded(page)["items"][0][1].startswith('</script><script>alert("')
    assert html.escape("<b>") in page  # in the list of the fullest codes
    assert "default-src 'none'" in page


def test_the_page_loads_nothing_from_elsewhere() -> None:
    assert not re.search(r"https?://|src=|href=", codes_page(*shop(30), MEANING)[0])


def test_the_page_begins_with_the_judgement_and_how_it_was_counted() -> None:
    page, _ = codes_page(*shop(30), MEANING)
    assert MEANING.verdict in html.unescape(page)
    assert "60 %" in page
    assert "purity" in page
    assert "nearest texts" in codes_page(*shop(30), CodeMeaning(None, None, Share(0.5, 0.1)))[0]


def tree_of(items: int) -> CodeTree:
    return codes_page(*shop(items), MEANING)[1]


def test_a_large_catalogue_is_shown_by_samples_of_its_largest_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tree_of(200)
    assert (len(whole.items), whole.left_out) == (200, 0)
    monkeypatch.setattr(codes, "_MOST_ITEMS", 100)
    monkeypatch.setattr(codes, "_CUT_PREFIXES", 6)
    page, cut = codes_page(*shop(200), MEANING)
    assert cut.left_out == 200 - len(cut.items) > 0
    assert [prefix[1] for prefix in cut.prefixes] == [prefix[1] for prefix in whole.prefixes]
    below = [len(prefix[6]) for prefix in cut.prefixes]
    assert below == [2, 2, 2]
    assert cut.prefixes_left_out == 3 * (4 - 2)
    assert "6 prefixes with the fewest items are left out" in page


def test_a_prefix_with_many_more_items_than_the_mean_is_crowded() -> None:
    numbers = np.array([0] * 40 + list(range(1, 20)), dtype=np.int32)[:, None]
    suffixes = suffixes_of(numbers)
    ids = SemanticIds(np.arange(59), np.column_stack([numbers, suffixes]), (20, 40))
    catalog = pl.DataFrame(
        {"item_id": range(59), "title": [f"t {row}" for row in range(59)], "categories": [None] * 59}
    )
    catalog = catalog.cast({"categories": pl.String})
    tree = codes_page(ids, catalog, MEANING)[1]
    assert [prefix[0] for prefix in tree.prefixes if prefix[4]] == [0]
    assert {prefix[2] for prefix in tree.prefixes} == {-1}
