"""The engine as a resource: assets compute where it says, and come out the same."""

import secrets
from importlib.util import find_spec
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from genrec_core.errors import GenrecError
from genrec_core.settings import EngineSettings
from genrec_core.storage.folders import latest
from genrec_dagster.assets.catalog import item_catalog, item_embeddings, raw_beauty, semantic_ids, user_histories
from genrec_dagster.config import ComputeEngine
from genrec_dagster.io_manager import ArtifactStorage
from genrec_dagster.resources import WorkFolders

ASSETS = [raw_beauty, item_catalog, user_histories, item_embeddings, semantic_ids]


def built(folder: Path, raw: Path, engine: EngineSettings) -> dict[str, np.ndarray]:
    """The arrays of the embeddings and semantic IDs of a shop that were built with ``engine``."""
    storage = str(folder / "storage")
    resources = {
        "io_manager": ArtifactStorage(root=storage),
        "work": WorkFolders(root=storage),
        "engine": ComputeEngine(**engine.model_dump()),
    }
    forms = {"raw_beauty": {"source": str(raw)}, "semantic_ids": {"levels": 2, "codebook_size": 8}}
    ops = {name: {"config": form} for name, form in forms.items()}
    dg.materialize(ASSETS, resources=resources, run_config={"ops": ops})
    folders = [latest(name, folder / "storage") for name in ("item_embeddings", "semantic_ids")]
    return {path.name: np.load(path) for each in folders for path in sorted(each.glob("*.npy"))}


def test_the_forms_of_the_launchpad_show_the_engine() -> None:
    assert ComputeEngine().name == "local"
    with pytest.raises(ValueError, match="'local' or 'ray'"):
        ComputeEngine(name="spark")


def test_ray_without_an_address_fails_the_step(tmp_path: Path, sample_folder: Path) -> None:
    if find_spec("dagster_ray") is None:
        pytest.skip("the extra ray is not installed")
    with pytest.raises(GenrecError, match="set RAY_ADDRESS"):
        built(tmp_path, sample_folder, EngineSettings(name="ray"))


@pytest.mark.slow
def test_assets_built_on_ray_are_those_built_here(
    tmp_path: Path, sample_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("dagster_ray") is None:
        pytest.skip("the extra ray is not installed")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    here = built(tmp_path / "here", sample_folder, EngineSettings())
    there = built(tmp_path / "there", sample_folder, EngineSettings(name="ray", address="local"))
    assert here.keys() == there.keys()
    assert {name for name in here if not np.array_equal(here[name], there[name])} == set()
