"""What all tests share: one CPU thread, no network, no setting of the caller's, and a tiny shop in the raw form."""

import os
from pathlib import Path

import polars as pl
import pytest

from genrec_core.data.histories import Histories
from genrec_core.data.p5 import read_catalog, read_histories
from genrec_core.data.sample import write_sample
from genrec_core.settings import CatalogSettings

# torch and mlflow, which read these, are imported later.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for _name in ("PRESET", "GENREC_RAW", "GENREC_STORAGE", "DAGSTER_HOME", "MLFLOW_TRACKING_URI", "GENREC_INBOX"):
    os.environ.pop(_name, None)  # what the caller set for runs changes no test


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw files of 200 users and 120 items."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, users=200, items=120)
    return folder


@pytest.fixture(scope="session")
def tiny_catalog(sample_folder: Path) -> pl.DataFrame:
    """The item catalogue of the tiny shop."""
    return read_catalog(sample_folder, CatalogSettings())


@pytest.fixture(scope="session")
def tiny_histories(sample_folder: Path, tiny_catalog: pl.DataFrame) -> Histories:
    """The user histories of the tiny shop."""
    return Histories.from_frame(read_histories(sample_folder), tiny_catalog["item_id"].to_numpy())


@pytest.fixture(scope="session")
def beauty_folder() -> Path:
    """The real Amazon Beauty files, where ``GENREC_TEST_BEAUTY`` names their folder."""
    folder = os.environ.get("GENREC_TEST_BEAUTY")
    if not folder:
        pytest.skip("GENREC_TEST_BEAUTY names no folder with the Amazon Beauty files")
    return Path(folder)
