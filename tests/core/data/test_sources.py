"""The raw files are parsed once: their tables are stored beside them, and count only while the files are the same."""

from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from genrec_core.data import p5
from genrec_core.data.sources import load_tables, read_catalog, receive_raw
from genrec_core.errors import GenrecError
from genrec_core.settings import CatalogSettings


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
