"""A disk that is full says so, and what was there before stays whole."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import (
    MANIFEST,
    atomic_file,
    atomic_folder,
    verify_manifest,
    write_json,
    write_manifest,
)
from genrec_core.storage.folders import latest, set_latest, storage_root
from genrec_core.tiger.checkpoint import Progress, load_state, save_state
from genrec_core.tiger.model import TigerConfig, TigerModel

if TYPE_CHECKING:
    from conftest import ObjectServer, SmallDisk

FULL = r"no space is left.*free some and run again"


def tiny_model() -> TigerModel:
    return TigerModel(TigerConfig(level_sizes=(8, 8, 16), d_model=16, heads=2, d_ff=32, prefix_buckets=64))


def test_an_array_that_does_not_fit_leaves_the_version_before(small_disk: "SmallDisk") -> None:
    target = small_disk.folder / "semantic_ids" / "run-1"
    write_codes(target, 1_000)
    with pytest.raises(GenrecError, match=f"{target}: {FULL}"):
        write_codes(target, 40_000_000)
    verify_manifest(target)
    assert len(np.load(target / "codes.npy")) == 1_000
    assert [path.name for path in target.parent.iterdir()] == ["run-1"]


def write_codes(target: Path, size: int) -> None:
    with atomic_folder(target) as part:
        np.save(part / "codes.npy", np.zeros(size, np.int8))
        write_manifest(part)


def test_a_file_that_does_not_fit_leaves_the_one_before(small_disk: "SmallDisk") -> None:
    target = small_disk.folder / "latest.json"
    write_json(target, {"version": "run-1"})
    with pytest.raises(GenrecError, match=f"{target}: {FULL}"), atomic_file(target) as part:
        part.write_bytes(bytes(40_000_000))
    assert "run-1" in target.read_text()
    assert [path.name for path in small_disk.folder.iterdir()] == ["latest.json"]


def test_a_training_state_that_does_not_fit_leaves_the_one_before(small_disk: "SmallDisk") -> None:
    state, model = small_disk.folder / "state", tiny_model()
    optimizer = torch.optim.AdamW(model.parameters())
    save_state(state, model, optimizer, Progress(epoch=1))
    with small_disk.filled(), pytest.raises(GenrecError, match=f"{state}: {FULL}"):
        save_state(state, model, optimizer, Progress(epoch=2))
    assert load_state(state, model, optimizer).epoch == 1
    save_state(state, model, optimizer, Progress(epoch=2))
    assert load_state(state, model, optimizer).epoch == 2


def test_a_version_that_does_not_fit_is_fetched_once_there_is_room(
    object_server: "ObjectServer", small_disk: "SmallDisk", monkeypatch: pytest.MonkeyPatch
) -> None:
    root = storage_root("s3://shop/genrec")
    write_codes(root / "semantic_ids" / "run-1", 500_000)
    set_latest("semantic_ids", "run-1", root)
    monkeypatch.setenv("GENREC_MIRROR", str(small_disk.folder))
    other = storage_root("s3://shop/genrec")
    with small_disk.filled(), pytest.raises(GenrecError, match=FULL):
        latest("semantic_ids", other)
    assert not list(other.glob(f"*/*/{MANIFEST}"))
    verify_manifest(latest("semantic_ids", other))
