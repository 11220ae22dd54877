"""The raw files are parsed once: their tables are stored beside them, and count only while the files are the same."""

from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from genrec_core.data import p5
from genrec_core.data.sources import PROVENANCE, load_tables, read_catalog, receive_raw
from genrec_core.errors import GenrecError
from genrec_core.settings import CatalogSettings
from genrec_core.storage.artifacts import read_json, write_json


def not_parsed(*given: object) -> None:
    raise AssertionError("a raw file was parsed again")


@pytest.fixture
def received(sample_folder: Path, tmp_path: Path) -> Path:
    receive_raw(str(sample_folder), tmp_path / "received")
    return tmp_path / "received"


def test_received_files_are_not_parsed_again(
    received: Path, sample_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, catalog = load_tables(sample_folder), read_catalog(sample_folder, CatalogSettings())
    monkeypatch.setattr(p5, "read_items", not_parsed)
    for stored_table, parsed_table in zip(load_tables(received), parsed, strict=True):
        assert_frame_equal(stored_table, parsed_table)
    assert_frame_equal(read_catalog(received, CatalogSettings()), catalog)
    with pytest.raises(AssertionError, match="parsed again"):
        load_tables(sample_folder)


def test_a_file_that_changed_since_is_parsed_again_and_its_fault_is_named(received: Path) -> None:
    with (received / p5.SEQUENCES).open("a") as file:
        file.write("9999 soap\n")
    with pytest.raises(GenrecError, match=f"^{received / p5.SEQUENCES}: line 201: user 9999: item 'soap' is not"):
        load_tables(received)


def test_the_template_is_the_sources_unless_one_is_set(received: Path) -> None:
    write_json(received / PROVENANCE, read_json(received / PROVENANCE) | {"text_template": "Name: {title};"})
    catalog = read_catalog(received, CatalogSettings())
    assert catalog["text"].to_list() == [f"Name: {title};" for title in catalog["title"]]
    assert catalog["text_template"].unique().to_list() == ["Name: {title};"]
    assert read_catalog(received, CatalogSettings(text_template="{title};"))["text_template"][0] == "{title};"
