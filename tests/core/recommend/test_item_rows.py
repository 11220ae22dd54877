"""The rows of item ids, found as a dictionary finds them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_core.data.ids import AnyId
from genrec_core.recommend import item_rows
from genrec_core.recommend.item_rows import ItemRows

TEXTS = st.text(alphabet="ab0\u00e9 ", min_size=1, max_size=3)
NUMBERS = st.integers(-5, 5)


@pytest.mark.parametrize("kind", [NUMBERS, TEXTS])
@given(data=st.data())
def test_each_id_is_found_as_in_a_dictionary(kind: st.SearchStrategy[AnyId], data: st.DataObject) -> None:
    ids = data.draw(st.lists(kind, min_size=1, unique=True))
    histories: list[Any] = data.draw(st.lists(st.lists(kind)))
    row_of = {item: row for row, item in enumerate(ids)}
    wanted = [row_of.get(item, -1) for history in histories for item in history]
    assert ItemRows(np.array(ids)).of(histories).tolist() == wanted


def test_texts_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_rows, "hash", len, raising=False)
    rows = ItemRows(np.array(["ab", "c", "cd", "ef", "ghi"]))
    assert rows.of([["ef", "gh", "ab"], ["ghi", "x", "cd", "", "long", "c"]]).tolist() == [
        3,
        -1,
        0,
        4,
        -1,
        2,
        -1,
        -1,
        1,
    ]


def test_what_is_no_text_is_no_item_of_texts() -> None:
    rows = ItemRows(np.array(["5", "a"]))
    assert rows.of([[5, "5", "a\0"]]).tolist() == [-1, 0, -1]
