"""Ids: what an item id and a user id are, and what is said of other values."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.data.ids import id_array, item_id_of, item_ids_of, user_id_of
from genrec_core.errors import GenrecError

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(INT64)
def test_an_item_id_is_read_from_text_and_from_a_number(item: int) -> None:
    assert item_id_of(item) == item_id_of(str(item)) == item_id_of(f" {item}\n") == item


@pytest.mark.parametrize(
    "value",
    ["", "x", "1.0", "1_000", "+5", "1e3", "\u0661", "5 6", str(2**63), str(-(2**63) - 1), 2**63, 5.0, True, None, [5]],
)
def test_another_value_is_no_item_id(value: Any) -> None:
    with pytest.raises(GenrecError, match="is not an integer id"):
        item_id_of(value)


@given(st.lists(INT64))
def test_lists_of_ids_are_read_in_each_form(items: list[int]) -> None:
    words = " ".join(map(str, items))
    assert item_ids_of(items) == item_ids_of(words) == item_ids_of(str(items)) == items


def test_quoted_ids_in_brackets_are_read_and_an_open_bracket_is_refused() -> None:
    assert item_ids_of("['5', \"6\"]") == [5, 6]
    with pytest.raises(GenrecError, match="does not end with ]"):
        item_ids_of("[5, 6")


@pytest.mark.parametrize(
    "text", ["[5 6]", "[ 5  6]", "[np.int64(5), np.int64(6)]", "[5.0, 6.0]", "[5. 6.]", "(5, 6)", "[5, 6,]", '["5", 6]']
)
def test_lists_of_integers_are_read_as_pandas_and_numpy_print_them(text: str) -> None:
    assert item_ids_of(text) == [5, 6]


@pytest.mark.parametrize("text", ["5,6", "5;6", "[5 6, 7]", "[5,,6]", "[5 ... 6]", "['5''6']", "[np.int64(5]"])
def test_a_list_in_another_form_is_refused_with_the_form_to_write(text: str) -> None:
    for text_ids in (False, True):
        with pytest.raises(GenrecError, match="write a JSON array" if text != "[5 ... 6]" or text_ids else "no?t? an"):
            item_ids_of(text, text_ids)


TEXT = st.text(st.characters(codec="utf-8"), min_size=1)


@given(st.lists(TEXT, max_size=5))
def test_text_ids_come_back_from_a_list_letter_by_letter(items: list[str]) -> None:
    assert item_ids_of(items, text_ids=True) == items
    assert item_ids_of(json.dumps(items), text_ids=True) == items
    assert item_ids_of(json.dumps(items, ensure_ascii=False), text_ids=True) == items
    assert item_ids_of(str(items), text_ids=True) == items  # as Python and pandas print it
    assert item_ids_of(f"[{' '.join(map(repr, items))}]", text_ids=True) == items  # as NumPy does


def test_words_and_numbers_are_text_where_ids_are_text() -> None:
    assert item_ids_of(" 0005  B-7 x\t5 ", text_ids=True) == ["0005", "B-7", "x", "5"]
    assert item_ids_of("[0005, 5]", text_ids=True) == ["0005", "5"]
    assert item_ids_of([5, "a b"], text_ids=True) == ["5", "a b"]
    for value in (None, True, 5.0, "", ["a"]):
        with pytest.raises(GenrecError, match="is neither text nor an integer"):
            item_ids_of([value], text_ids=True)
    for text in ("[a, b]", "[nan]", "['a', None]"):  # NumPy and Python quote every text
        with pytest.raises(GenrecError, match="write a JSON array"):
            item_ids_of(text, text_ids=True)


WORD = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=20)


@given(st.lists(INT64) | st.lists(WORD.filter(lambda word: word == word.strip()), min_size=1))
def test_an_array_of_ids_holds_them_unchanged(ids: list[Any]) -> None:
    array = id_array(ids)
    assert array.dtype.kind in "iU"
    assert array.tolist() == id_array(array).tolist() == ids


@pytest.mark.parametrize(
    "ids", [[1, "1"], [1.0], [None], [True], [2**63], ["a", ""], ["a\0"], ["a\n"], [" a"], ["a" * 257]]
)
def test_an_array_refuses_what_is_no_id(ids: list[Any]) -> None:
    with pytest.raises(GenrecError, match=r"(items\.json|the item ids): .*(ids are neither|is no item id)"):
        id_array(ids)


def test_a_user_id_is_any_text_of_one_line() -> None:
    assert user_id_of(" a,b \n") == "a,b"
    for text, reason in ((" \n", "is empty"), ("a\nb", "holds a line end"), ("a\rb", "holds a line end")):
        with pytest.raises(GenrecError, match=reason):
            user_id_of(text)
