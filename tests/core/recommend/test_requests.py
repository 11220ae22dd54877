"""Request files: both forms, and what is wrong with a line."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_core.errors import GenrecError
from genrec_core.recommend import request_files
from genrec_core.recommend.request_files import Rejected, Request, read_requests


def read(tmp_path: Path, content: str | bytes) -> list[Request | Rejected]:
    path = tmp_path / "requests"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_requests(path))


def served(outcomes: list[Request | Rejected]) -> list[tuple[str, list[int]]]:
    return [(outcome.user_id, outcome.item_ids) for outcome in outcomes if isinstance(outcome, Request)]


def test_text_form_reads_user_and_items(tmp_path: Path) -> None:
    assert read(tmp_path, "1 5 6\nalice\t7\n2\n") == [
        Request(1, "1", [5, 6]),
        Request(2, "alice", [7]),
        Request(3, "2", []),
    ]


def test_csv_form_reads_spaces_and_lists(tmp_path: Path) -> None:
    content = 'user_id,item_ids\n1,5 6\n2,"[7, 8]"\n3,\n"a,b",[9]\n4,[]\n'
    assert served(read(tmp_path, content)) == [("1", [5, 6]), ("2", [7, 8]), ("3", []), ("a,b", [9]), ("4", [])]


def test_csv_columns_are_found_by_name(tmp_path: Path) -> None:
    assert served(read(tmp_path, 'item_ids,when,"user_id"\n5 6,noon,1\n')) == [("1", [5, 6])]


def test_byte_order_mark_crlf_and_blank_lines_are_accepted(tmp_path: Path) -> None:
    outcomes = read(tmp_path, b"\xef\xbb\xbf\r\nuser_id,item_ids\r\n\r\n1,5 6\r\n\r\n2,7")
    assert outcomes == [Request(4, "1", [5, 6]), Request(6, "2", [7])]


def test_a_byte_order_mark_is_no_part_of_the_first_user(tmp_path: Path) -> None:
    assert served(read(tmp_path, b"\xef\xbb\xbf1 5\n")) == [("1", [5])]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_header_of_csv_says_what_parts_its_columns(tmp_path: Path, delimiter: str) -> None:
    rows = (('"user_id"', "ITEM_IDS"), ("u1", '"[1, 2, 3]"'), ('"a;b"', "4 5"), ("c", ""))
    content = "\ufeff" + "".join(delimiter.join(row) + "\r\n" for row in rows)
    assert served(read(tmp_path, content)) == [("u1", [1, 2, 3]), ("a;b", [4, 5]), ("c", [])]


@pytest.mark.parametrize("header", ["user_id;items", "userid,item_ids", "user_id item_ids", "user_id|items"])
def test_a_header_that_lacks_a_column_is_no_user(tmp_path: Path, header: str) -> None:
    with pytest.raises(GenrecError, match=r"requests: line 2: .* name the columns user_id and item_ids"):
        read(tmp_path, f"\n{header}\nu1;1 2\n")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("content", ["user_id,item_ids\r\n1,5 6\r\n", "1 5 6\n"])
def test_utf_16_is_refused_with_the_remedy(tmp_path: Path, encoding: str, content: str) -> None:
    with pytest.raises(GenrecError, match="requests: line 1: the file is UTF-16; save the file as UTF-8"):
        read(tmp_path, content.encode(encoding))


def test_a_user_may_come_twice(tmp_path: Path) -> None:
    assert served(read(tmp_path, "1 5\n1 6\n")) == [("1", [5]), ("1", [6])]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1 5 x6", "item 'x6' is not an integer id"),
        ("1 5.0", "item '5.0' is not an integer id"),
        ("1 1_000", "item '1_000' is not an integer id"),
        ("1 99999999999999999999", "not an integer id"),
        ("1,5,6", "a comma in the form"),
        ("u1;1 2 3", "a semicolon in the form"),
        ("1 5 6\r2 7 8", "a carriage return that does not end it"),
        ("\u2028", "user_id is empty"),
    ],
)
def test_a_malformed_text_line_is_numbered_and_explained(tmp_path: Path, line: str, reason: str) -> None:
    good, bad, last = read(tmp_path, f"1 5\n{line}\n2 6\n")
    assert isinstance(good, Request)
    assert isinstance(last, Request)
    assert isinstance(bad, Rejected)
    assert (bad.line, bad.content) == (2, line)
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,[5, 6]", "3 fields where the header has 2; put quotes"),
        ("1", "1 fields where the header has 2"),
        (",5", "user_id is empty"),
        ("a\rb,5", "a carriage return that does not end it"),
        ("1,[5", "does not end with ]"),
        ('1,"5 6', "not a CSV row"),
        ('1,"[5,,6]"', "'5,,6' is no list of items that can be read; write a JSON array"),
        ('1,"5, 6"', "'5, 6' is no list of items that can be read; write a JSON array"),
        ("1,nan", "item 'nan' is not an integer id"),
    ],
)
def test_a_malformed_csv_line_is_numbered_and_explained(tmp_path: Path, line: str, reason: str) -> None:
    _, bad, _ = read(tmp_path, f"user_id,item_ids\n1,5\n{line}\n2,6\n")
    assert isinstance(bad, Rejected)
    assert bad.line == 3
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("line", "reason"), [(b"1 \xff\xfe", "byte 3 of the line is not UTF-8; save the file as UTF-8"), (b"1 \0", "NUL")]
)
def test_bytes_that_are_no_text_are_rejected(tmp_path: Path, line: bytes, reason: str) -> None:
    bad, good = read(tmp_path, line + b"\n1 5\n")
    assert isinstance(bad, Rejected)
    assert reason in bad.reason
    assert good == Request(2, "1", [5])


def test_an_endless_line_is_rejected_and_the_next_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_files, "LONGEST_LINE", 64)
    bad, good = read(tmp_path, "1 " + "5 " * 200 + "\n2 6\n")
    assert isinstance(bad, Rejected)
    assert "longer than 64 bytes" in bad.reason
    assert good == Request(2, "2", [6])


def test_a_very_long_history_is_read_whole(tmp_path: Path) -> None:
    items = list(range(200_000))
    text, quoted = " ".join(map(str, items)), ", ".join(map(str, items))
    assert served(read(tmp_path, f"1 {text}\n")) == [("1", items)]
    assert served(read(tmp_path, f'user_id,item_ids\n1,"[{quoted}]"\n')) == [("1", items)]


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", "user_id,item_ids\n"])
def test_a_file_without_requests_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(GenrecError, match="no requests in it"):
        read(tmp_path, content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenrecError, match=r"absent.*cannot be read"):
        list(read_requests(tmp_path / "absent"))


user_ids = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1).filter(
    lambda text: not set(',;"') & set(text) and not text.startswith("\ufeff")
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(user_ids, st.lists(st.integers(-(10**17), 10**17), max_size=6)), min_size=1, max_size=8))
def test_both_forms_give_back_what_was_written(tmp_path: Path, rows: list[tuple[str, list[int]]]) -> None:
    text = "".join(" ".join([user, *map(str, items)]) + "\n" for user, items in rows)
    table = "user_id,item_ids\n" + "".join(f'{user},"{items}"\n' for user, items in rows)
    assert served(read(tmp_path, text)) == rows
    assert served(read(tmp_path, table)) == rows
