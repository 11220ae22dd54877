"""Files of new items."""

import json
from pathlib import Path

import numpy as np
import pytest

from genrec_core.bundle.new_items import read_item_ids, read_new_items, read_vectors
from genrec_core.data.item_text import ItemFields
from genrec_core.errors import GenrecError


def test_csv_and_json_lines_give_the_catalogues_text(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title,brand,price\n7,Red Soap,Acme,3.5\n8,,,\n")
    (tmp_path / "items.jsonl").write_text(
        '{"item_id": 7, "title": "Red Soap", "brand": "Acme", "price": 3.5}\n\n{"item_id": "8", "title": null}\n'
    )
    for name in ("items.csv", "items.jsonl"):
        new = read_new_items(tmp_path / name, ItemFields())
        assert new.item_ids.tolist() == [7, 8]
        assert new.texts == ["Title: Red Soap; Brand: Acme; Price: 3.50;", ""]
        assert new.texts_or_ids() == [new.texts[0], "Item: 8;"]
        nothing = dict.fromkeys(("title", "brand", "categories", "price", "description"))
        assert new.fields == [nothing | {"title": "Red Soap", "brand": "Acme", "price": 3.5}, nothing]
        with pytest.raises(GenrecError, match="item 8 has no text"):
            new.require_texts(tmp_path / name)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_header_of_csv_says_what_parts_its_columns(tmp_path: Path, delimiter: str) -> None:
    rows = (('"item_id"', '"title"', '"price"'), ("7", '"Soap, red"', '"3,50"'))
    content = "".join(delimiter.join(row) + "\r\n" for row in rows)
    (tmp_path / "items.csv").write_text(content, encoding="utf-8-sig")
    found = read_new_items(tmp_path / "items.csv", ItemFields())
    assert (found.item_ids.tolist(), found.texts) == ([7], ["Title: Soap, red; Price: 3.50;"])


def test_half_of_a_letter_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"item_id": 1, "title": "half \\ud83d"}\n{"item_id": 2, "text": "\\ud83d half"}\n'
    )
    assert read_new_items(tmp_path / "a.jsonl", ItemFields(text_template="{title};")).texts == [
        "half \ufffd;",
        "\ufffd half",
    ]


def test_a_ready_text_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("text,item_id,title\nsoap that is red,7,ignored\n")
    assert read_new_items(tmp_path / "items.csv", ItemFields()).texts == ["soap that is red"]


def test_the_catalogues_own_fields_and_ids_are_read(tmp_path: Path) -> None:
    fields = ItemFields(
        text_template="Title: {title}; Shelf: {shelf}; Pages: {pages}; Weight: {weight};",
        texts=("title", "shelf", "blurb"), numbers=("price", "pages", "weight"),
    )  # fmt: skip
    (tmp_path / "a.csv").write_text(
        'item_id,title,shelf,pages,weight\n007,A &amp; B,Old|New|Old,"1,200",0.50\n"a, b",,,,\n'
    )
    new = read_new_items(tmp_path / "a.csv", fields, text_ids=True)
    assert (new.item_ids.tolist(), new.item_ids.dtype.kind) == (["007", "a, b"], "U")
    assert new.texts == ["Title: A & B; Shelf: Old; New; Pages: 1200; Weight: 0.5;", ""]
    known = {"title": "A & B", "shelf": "Old; New", "pages": 1200.0, "weight": 0.5}
    nothing = dict.fromkeys(("brand", "categories", "description", "price", "blurb"))
    assert new.fields[0] == {**known, **nothing}
    (tmp_path / "a.jsonl").write_text('{"item_id": 7, "shelf": ["Old", "New"]}\n{"item_id": 1.5}\n')
    with pytest.raises(GenrecError, match=r"line 2: item 1\.5 is neither text nor an integer; give"):
        read_new_items(tmp_path / "a.jsonl", fields, text_ids=True)
    (tmp_path / "a.jsonl").write_text('{"item_id": 7, "Shelf:token": ["Old", "New"]}\n')
    assert read_new_items(tmp_path / "a.jsonl", fields, text_ids=True).texts == ["Shelf: Old; New;"]
    with pytest.raises(
        GenrecError, match=r"'\{colour\}': a part may hold one of the fields title, shelf, blurb, price"
    ):
        read_new_items(tmp_path / "a.jsonl", fields.with_template("{colour};"))


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.csv", "item_id,title\nx,Soap\n", r"a\.csv, line 2: item 'x' is not an integer id"),
        ("a.csv", "title\nSoap\n", "line 1: no header that names item_id"),
        ("a.csv", "item_id,title\n", "no items in it"),
        ("a.jsonl", "{\n", "line 1: no JSON object"),
        ("a.jsonl", "[1]\n", "line 1: no JSON object"),
        ("a.jsonl", "[" * 100_000 + "\n", "line 1: no JSON object"),
        ("a.csv", "item_id;title\n7;Soap\n".encode("utf-16"), "line 1: UTF-16.*save the file as UTF-8"),
        ("a.csv", "item_id,title\n7,Cr\u00e8me\n".encode("latin-1"), "line 2: not UTF-8; save the file as UTF-8"),
        ("a.jsonl", '{"item_id": 1, "title": "Cr\u00e8me"}\n'.encode("latin-1"), "line 1: not UTF-8"),
    ],
)
def test_a_faulty_file_is_named(tmp_path: Path, name: str, content: str | bytes, fault: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(GenrecError, match=fault):
        read_new_items(tmp_path / name, ItemFields())


def test_ids_and_vectors_are_checked(tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text("[3, 4]")
    assert read_item_ids(tmp_path / "ids.json").tolist() == [3, 4]
    (tmp_path / "ids.json").write_text('[3, "4"]')
    with pytest.raises(GenrecError, match="no array of integers"):
        read_item_ids(tmp_path / "ids.json")
    (tmp_path / "ids.json").write_text('["0003", "4"]')
    assert read_item_ids(tmp_path / "ids.json").tolist() == ["0003", "4"]
    (tmp_path / "ids.json").write_text(json.dumps([[item] for item in range(10_000)]))
    with pytest.raises(GenrecError) as caught:
        read_item_ids(tmp_path / "ids.json")
    assert len(str(caught.value)) < 500
    (tmp_path / "ids.json").write_bytes("[3, 4]".encode("utf-8-sig"))
    assert read_item_ids(tmp_path / "ids.json").tolist() == [3, 4]
    (tmp_path / "ids.json").write_bytes("[3, 4]".encode("utf-16"))
    with pytest.raises(GenrecError, match="save the file as UTF-8"):
        read_item_ids(tmp_path / "ids.json")
    (tmp_path / "ids.json").write_text(f"[{10**20}]")
    with pytest.raises(GenrecError, match="no array of integers of 64 bits"):
        read_item_ids(tmp_path / "ids.json")
    (tmp_path / "ids.json").write_text(f"[{'1' * 5000}]")
    with pytest.raises(GenrecError, match=r"ids.json: no array of integers of 64 bits"):
        read_item_ids(tmp_path / "ids.json")
    np.save(tmp_path / "v.npy", np.ones((2, 3)))
    assert read_vectors(tmp_path / "v.npy").dtype == np.float32
    np.save(tmp_path / "v.npy", np.ones(3))
    with pytest.raises(GenrecError, match="is wanted"):
        read_vectors(tmp_path / "v.npy")
    np.save(tmp_path / "v.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(GenrecError, match="cannot be read as an array"):
        read_vectors(tmp_path / "v.npy")
