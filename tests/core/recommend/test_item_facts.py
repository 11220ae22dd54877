"""Items as people see them, and the search for items by the words of their titles."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.bundle.item_table import ItemTable, values_of
from genrec_core.bundle.word_index import WordIndex, words_of
from genrec_core.errors import GenrecError
from genrec_core.recommend.item_facts import FactsByRow, ItemFacts
from genrec_core.recommend.recommender import Recommender
from genrec_core.storage.artifacts import write_manifest

TITLES = [
    "Crème brûlée body butter",
    "Body lotion, 200 ml",
    "BUTTER knife",
    None,
    "L'Oréal Elvive",
    "ключ от дома",
    "Bodybuilding bar",
]


def table_of(titles: list[str | None]) -> ItemTable:
    return ItemTable.of(np.arange(10, 10 + len(titles)), {"title": titles})


@pytest.fixture(scope="module")
def shop(ruled_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """The model with the titles above for its first items; its popularity is that of the tiny model."""
    folder = shutil.copytree(ruled_dir, tmp_path_factory.mktemp("titles") / "model")
    table = ItemTable.load(folder, np.load(folder / "item_ids.npy"))
    columns = {name: list(values_of(column)) for name, column in table.columns.items()}
    columns["title"][: len(TITLES)] = TITLES
    ItemTable.of(table.item_ids, columns).save(folder)
    write_manifest(folder)
    return Recommender.open(folder)


def rows(recommender: Recommender, items: list[int | str]) -> list[int]:
    return np.searchsorted(recommender.item_ids, items).tolist()


def popular_first(recommender: Recommender, chosen: set[int]) -> list[int]:
    return [row for row in recommender.popular_rows.tolist() if row in chosen]


def test_an_item_is_described_by_its_catalogue(ruled: Recommender) -> None:
    ids = ruled.item_ids.tolist()
    assert ruled.describe([ids[13], ids[0]]) == [
        ItemFacts(ids[13], "Item 13", "Odd", "All > Tens 1", 13.0),
        ItemFacts(ids[0], "Item 0", "Even", "All > Tens 0", None),
    ]


def test_an_item_without_a_title_is_named_by_its_id(shop: Recommender, tiny_recommender: Recommender) -> None:
    ids = shop.item_ids.tolist()
    assert shop.describe([ids[3]])[0].title == f"item {ids[3]}"
    assert tiny_recommender.describe([ids[3], 5]) == [ItemFacts(ids[3], f"item {ids[3]}"), ItemFacts(5, "item 5")]


@pytest.mark.parametrize(
    ("query", "chosen"),
    [
        ("body", {0, 1, 6}),
        ("BODY butter", {0}),
        ("butter bo", {0}),
        ("creme brul", {0}),
        ("Crème", {0}),
        ("oreal", {4}),
        ("КЛЮЧ", {5}),
        ("utter", set()),
        ("200", {1}),
        ("?!", set()),
    ],
)
def test_every_word_of_a_query_begins_a_word_of_the_title(shop: Recommender, query: str, chosen: set[int]) -> None:
    assert [row for row in rows(shop, shop.find(query, 90)) if row < len(TITLES)] == popular_first(shop, chosen)


def test_an_empty_query_gives_the_most_popular_items(shop: Recommender) -> None:
    assert rows(shop, shop.find("  ", 5)) == shop.popular_rows[:5].tolist()


def test_an_item_whose_id_the_query_is_comes_first(shop: Recommender, tiny_recommender: Recommender) -> None:
    ids = shop.item_ids.tolist()
    assert shop.find(f" {ids[0]} ", 3) == [ids[0]]
    assert tiny_recommender.find(f"item {str(ids[40])[:2]}", 90)[0] in ids
    assert tiny_recommender.find(str(ids[40]), 3)[0] == ids[40]
    assert shop.find("9" * 30, 3) == []


def test_a_mask_restricts_what_is_found(shop: Recommender) -> None:
    ids = shop.item_ids.tolist()
    allowed = shop.allowed(deny=[ids[0]])
    assert rows(shop, shop.find("body", 90, allowed=allowed)) == popular_first(shop, {1, 6})
    assert shop.find(str(ids[0]), 3, allowed=allowed) == []
    with pytest.raises(GenrecError, match="k is 0"):
        shop.find("body", 0)


words = st.text("abcé Ö'-1", max_size=12)


@given(st.lists(words, min_size=1, max_size=8), words)
def test_the_index_finds_what_reading_every_text_finds(texts: list[str], query: str) -> None:
    found = WordIndex.of(texts).texts_with(words_of(query), len(texts))
    wanted = [all(any(word.startswith(part) for word in words_of(text)) for part in words_of(query)) for text in texts]
    assert found.tolist() == wanted


def test_a_hundred_thousand_titles_are_searched_in_50_ms() -> None:
    random = np.random.default_rng(0)
    vocabulary = np.array([f"{first}{second}" for first in "abcdefghij" for second in range(500)])
    titles = [" ".join(chosen) for chosen in vocabulary[random.zipf(1.3, (100_000, 8)) % len(vocabulary)]]
    facts = FactsByRow(table_of(list(titles)), random.permutation(len(titles)))
    assert len(facts.find("a", 20, -1, None)) == 20
    for query in ("a b", "a1", "a1 b2 c", "", "j499"):
        assert min(seconds_of(facts, query) for _ in range(3)) < 0.05


def seconds_of(facts: FactsByRow, query: str) -> float:
    began = time.perf_counter()
    facts.find(query, 20, -1, None)
    return time.perf_counter() - began
