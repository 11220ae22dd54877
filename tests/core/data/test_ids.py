"""Ids: what an item id and a user id are, and what is said of other values."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.data.ids import item_id_of, item_ids_of, user_id_of
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


def test_a_user_id_is_any_text_of_one_line() -> None:
    assert user_id_of(" a,b \n") == "a,b"
    for text, reason in ((" \n", "is empty"), ("a\nb", "holds a line end"), ("a\rb", "holds a line end")):
        with pytest.raises(GenrecError, match=reason):
            user_id_of(text)
