"""The benchmark of tables makes the shop it claims and takes it through the first three assets."""

from pathlib import Path

import polars as pl
import pytest

from tests.benchmarks import tables


def test_a_small_shop_goes_through_the_first_assets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GENREC_RAW", "GENREC_STORAGE"):
        monkeypatch.setenv(name, "")  # restored after the benchmark has set them
    figures = tables.run(interactions=500, users=50, items=30)
    assert set(figures["seconds"]) == set(tables.ASSETS)
    assert 0 < figures["total_seconds"] < 60


def test_the_shop_has_the_size_asked_for(tmp_path: Path) -> None:
    tables.write_shop(tmp_path, interactions=500, users=50, items=30)
    assert pl.read_parquet(tmp_path / "interactions" / "*.parquet").height == 500
    assert pl.read_parquet(tmp_path / "items.parquet").height == 30
