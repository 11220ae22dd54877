"""The raw form is read as it is meant, from everywhere it may come from, and a fault is named."""

import gzip
import io
import json
import shutil
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from genrec_core.data import p5
from genrec_core.data.p5 import RAW_FILES, read_histories
from genrec_core.data.sources import read_catalog, receive_raw
from genrec_core.errors import GenrecError
from genrec_core.settings import CatalogSettings


def write_raw(folder: Path, meta: list[str], sequences: str = "1 1 2\n", item2id: dict[str, str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sequential_data.txt").write_text(sequences)
    (folder / "datamaps.json").write_text(json.dumps({"item2id": item2id or {"A": "1", "B": "2"}}))
    (folder / "meta.json.gz").write_bytes(gzip.compress("\n".join(meta).encode()))
    return folder


def test_json_and_python_literals_give_the_same_items_and_other_products_are_passed_over(tmp_path):
    product = {"asin": "A", "title": "It's a\nbalm", "brand": "Fiora", "price": 3.5, "categories": [["Beauty", "Lips"]]}
    other = {"asin": "Z", "title": "not in the catalogue"}
    as_json = write_raw(tmp_path / "json", [json.dumps(product), json.dumps(other)])
    as_literal = write_raw(tmp_path / "literal", [repr(product), repr(other)])
    first, second = (read_catalog(folder, CatalogSettings()) for folder in (as_json, as_literal))
    assert first.equals(second)
    assert first["text"].to_list() == [
        "Title: It's a balm; Brand: Fiora; Categories: Beauty, Lips; Price: 3.50;",
        "Item: B;",
    ]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", RAW_FILES)
def test_a_file_of_another_encoding_is_named_with_the_remedy(tmp_path, name, encoding):
    folder = write_raw(
        tmp_path / "raw", ["{'asin': 'A', 'title': 'Crème'}"], "1 1 2\nJérôme 1 2\n", {"é": "1", "B": "2"}
    )
    packed = name.endswith(".gz")
    content = (folder / name).read_bytes()
    text = (gzip.decompress(content) if packed else content).decode().replace("\\u00e9", "é").encode(encoding)
    (folder / name).write_bytes(gzip.compress(text) if packed else text)
    line = 2 if name == "sequential_data.txt" and encoding == "latin-1" else 1
    wanted = rf"^{folder / name}: line {line}: (not UTF-8|UTF-16, or a NUL byte); save the file as UTF-8$"
    with pytest.raises(GenrecError, match=wanted):
        receive_raw(str(folder), tmp_path / "received")


def test_byte_order_marks_of_utf_8_are_no_part_of_a_file(tmp_path):
    folder = write_raw(tmp_path / "raw", ["{'asin': 'A'}"])
    (folder / "meta.json.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf{'asin': 'A', 'title': 'Balm'}\n", mtime=0))
    for name in ("sequential_data.txt", "datamaps.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    receive_raw(str(folder), tmp_path / "received")
    assert read_histories(tmp_path / "received")["user_id"].to_list() == ["1"]
    assert read_catalog(tmp_path / "received", CatalogSettings())["title"].to_list() == ["Balm", None]


def test_half_of_a_letter_is_replaced_and_counted(tmp_path):
    lines = [
        r'{"asin": "A", "title": "half \ud83d", "categories": ["\ud83d"]}',
        r"{'asin': 'B', 'title': '\ud83d\ude00'}",
    ]
    folder = write_raw(tmp_path / "raw", lines)
    assert receive_raw(str(folder), tmp_path / "received")["items_with_unreadable_letters"] == 1
    catalog = read_catalog(tmp_path / "received", CatalogSettings())
    assert catalog["title"].to_list() == ["half \ufffd", "\U0001f600"]
    assert catalog["categories"].to_list() == ["\ufffd", None]


@pytest.mark.parametrize("where", ["", "shop/"])
def test_a_fault_is_named_in_the_file_that_the_user_knows(tmp_path, where):
    write_raw(tmp_path / "raw" / where, ["{'asin': 'A'}"], "1 x\n")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "raw")
    for source in (str(tmp_path / "raw"), archive):
        with pytest.raises(GenrecError, match=f"^{source}/{where}sequential_data.txt: line 1: user 1: item 'x'"):
            receive_raw(source, tmp_path / "received")


def test_a_line_that_is_nested_without_end_is_named(tmp_path):
    folder = write_raw(tmp_path / "raw", ["[" * 100_000])
    with pytest.raises(GenrecError, match=r"meta.json.gz: line 1: neither JSON nor a Python literal"):
        read_catalog(folder, CatalogSettings())


def test_code_in_the_meta_file_is_not_run(tmp_path):
    trap = tmp_path / "trap"
    folder = write_raw(tmp_path / "raw", [f"__import__('pathlib').Path({str(trap)!r}).touch() or {{'asin': 'A'}}"])
    with pytest.raises(GenrecError, match=r"meta.json.gz: line 1: neither JSON nor a Python literal"):
        read_catalog(folder, CatalogSettings())
    assert not trap.exists()


def test_absent_fields_are_left_out_of_the_text(tmp_path):
    folder = write_raw(
        tmp_path, [json.dumps({"asin": "A", "title": None, "brand": " ", "price": "NaN"}), "{'asin': 'B'}"]
    )
    assert read_catalog(folder, CatalogSettings())["text"].to_list() == ["Item: A;", "Item: B;"]


def test_the_text_template_is_a_setting(tmp_path):
    folder = write_raw(tmp_path, [json.dumps({"asin": "A", "title": "Balm", "brand": "Fiora"})])
    catalog = read_catalog(folder, CatalogSettings(text_template="{brand}; made {description}; named {title};"))
    assert catalog["text"][0] == "Fiora; named Balm;"
    with pytest.raises(GenrecError, match="colour"):
        read_catalog(folder, CatalogSettings(text_template="{colour};"))


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ("1 1 2\n2 1 x\n", r"line 2: user 2: item 'x' is not an integer id"),
        ("1 1\n1 2\n", r"line 2: user 1: is there already"),
        ("1\n", r"line 1: user 1: has no item"),
        ("1 0\n", r"item 0 is not a positive integer"),
        ("\n", r"holds no history"),
        ("1 1 7\n", r"item 7 is not in item2id"),
    ],
)
def test_a_faulty_history_is_named_by_line(tmp_path, sequences, message):
    with pytest.raises(GenrecError, match=message):
        receive_raw(str(write_raw(tmp_path / "raw", [], sequences)), tmp_path / "received")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("datamaps.json", b"{", "datamaps.json: not valid JSON"),
        ("datamaps.json", b'{"item2id": {"A": %s}}' % (b"1" * 5000), "datamaps.json: not valid JSON .*digits"),
        ("datamaps.json", b"{\xff}", "datamaps.json: line 1: not UTF-8"),
        ("datamaps.json", b"{}", "holds no 'item2id' object"),
        ("datamaps.json", b'{"item2id": {"A": "one"}}', "every id is a positive integer"),
        ("meta.json.gz", b"plain text", "cannot be read as gzip text"),
        ("meta.json.gz", gzip.compress(b'{"title": "no asin"}', mtime=0), "line 1: no dict with an 'asin'"),
        ("meta.json.gz", gzip.compress(b'{"asin": "A"}' * 500, mtime=0)[:40], "cannot be read as gzip text"),
        ("meta.json.gz", gzip.compress(b"", mtime=0)[:10] + b"\xff" * 40, "cannot be read as gzip text"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    folder = write_raw(tmp_path / "raw", ["{'asin': 'A'}"])
    (folder / name).write_bytes(content)
    with pytest.raises(GenrecError, match=message):
        receive_raw(str(folder), tmp_path / "received")
    assert not (tmp_path / "received").exists()


def archived(sample: Path, target: Path, kind: str) -> Path:
    shutil.copytree(sample, target / "beauty")
    return Path(shutil.make_archive(str(target / "P5_data"), kind, target, "beauty"))


@pytest.mark.parametrize("kind", ["folder", "parent", "zip", "gztar", "url"])
def test_the_files_arrive_from_anywhere_unchanged(sample_folder, tmp_path, kind):
    if kind in ("folder", "parent"):
        shutil.copytree(sample_folder, tmp_path / "in" / "beauty")
        source = str(tmp_path / "in" / ("beauty" if kind == "folder" else ""))
    else:
        source = str(archived(sample_folder, tmp_path / "in", "zip" if kind == "url" else kind))
    if kind == "url":
        handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "in"))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_port}/P5_data.zip"
    provenance = receive_raw(source, tmp_path / "out")
    if kind == "url":
        server.shutdown()
        server.server_close()
    for name in RAW_FILES:
        assert (tmp_path / "out" / name).read_bytes() == (sample_folder / name).read_bytes()
        assert provenance["files"][name]["bytes"] == (sample_folder / name).stat().st_size
    assert (provenance["users"], provenance["items"], provenance["source"]) == (200, 120, source)


def test_a_missing_source_or_file_is_named(tmp_path):
    with pytest.raises(GenrecError, match="no place of data is given; name a folder"):
        receive_raw("", tmp_path / "out")
    with pytest.raises(GenrecError, match="nowhere: no such folder or archive"):
        receive_raw(str(tmp_path / "nowhere"), tmp_path / "out")
    (tmp_path / "sequential_data.txt").write_text("1 1\n")
    with pytest.raises(GenrecError, match=r"missing meta.json.gz, datamaps.json"):
        receive_raw(str(tmp_path), tmp_path / "out")
    with pytest.raises(GenrecError, match="cannot be downloaded"):
        receive_raw("http://127.0.0.1:9/archive.zip", tmp_path / "out")


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../escaped.txt", "x")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../escaped.txt"), io.BytesIO())
    for name in ("evil.zip", "evil.tar"):
        with pytest.raises(GenrecError, match=name):
            receive_raw(str(tmp_path / name), tmp_path / "out" / "raw")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_the_sample_is_received_where_no_source_is_named(tmp_path):
    provenance = receive_raw(None, tmp_path / "out")
    assert (provenance["users"], provenance["items"]) == (5000, 2000)


def test_real_beauty_has_its_published_size(beauty_folder, tmp_path):
    provenance = receive_raw(str(beauty_folder), tmp_path / "received")
    assert [provenance[key] for key in ("users", "items", "interactions")] == [22363, 12101, 198502]
    catalog = read_catalog(beauty_folder, CatalogSettings())
    assert catalog["item_id"].to_list() == list(range(1, 12102))
    assert catalog.filter(pl.col("title").is_not_null()).height == 12094
    assert read_histories(beauty_folder)["item_ids"][0].to_list() == [1, 2, 3, 4, 5]


def test_a_line_of_the_meta_file_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(p5, "_LONGEST_LINE", 1000)
    folder = write_raw(tmp_path, ['{"asin": "A"}', '{"asin": "B", "title": "' + "x" * 5000 + '"}'])
    with pytest.raises(GenrecError, match=r"meta\.json\.gz: line 2: longer than 1000 characters"):
        read_catalog(folder, CatalogSettings())
