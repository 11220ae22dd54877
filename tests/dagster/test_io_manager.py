"""Artefacts are read whole or not at all, and in the version that belongs to the reader."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
from dagster import AssetsDefinition, ExecuteInProcessResult
from polars.testing import assert_frame_equal

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import LOCK, MANIFEST, verify_manifest
from genrec_core.storage.folders import latest, storage_root, version_folder
from genrec_dagster.io_manager import ArtifactStorage
from genrec_dagster.resources import WorkFolders

if TYPE_CHECKING:
    from conftest import ObjectServer, SmallDisk

FRAME = pl.DataFrame({"item_id": [1, 2], "title": ["Soap", None]})


@dg.asset
def frame() -> pl.DataFrame:
    return FRAME


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage"


def materialise(storage: Path, *assets: AssetsDefinition, select: str = "*") -> ExecuteInProcessResult:
    return dg.materialize(assets, selection=select, resources={"io_manager": ArtifactStorage(root=str(storage))})


def reader_of(annotation: type, seen: list[Any]) -> AssetsDefinition:
    @dg.asset(name="reader", ins={"value": dg.AssetIn("frame")})
    def reader(value: annotation) -> None:  # type: ignore[valid-type]  # the annotation is what is tested
        seen.append(value)

    return reader


def test_a_frame_comes_back_as_it_was(storage: Path) -> None:
    seen: list[pl.DataFrame] = []
    materialise(storage, frame, reader_of(pl.DataFrame, seen))
    assert_frame_equal(seen[0], FRAME)


def test_a_frame_asked_for_as_a_path_is_the_folder_of_its_version(storage: Path) -> None:
    seen: list[Path] = []
    result = materialise(storage, frame, reader_of(Path, seen))
    assert seen == [storage / "frame" / result.run_id]
    assert_frame_equal(pl.read_parquet(seen[0] / "frame.parquet"), FRAME)


def test_a_dict_comes_back_as_it_was(storage: Path) -> None:
    seen: list[dict[str, Any]] = []

    @dg.asset(name="frame")
    def facts() -> dict[str, Any]:
        return {"items": 2, "levels": [3, 4]}

    materialise(storage, facts, reader_of(dict, seen))
    assert seen == [{"items": 2, "levels": [3, 4]}]


def test_a_folder_is_moved_with_all_that_is_in_it(storage: Path, tmp_path: Path) -> None:
    seen: list[Path] = []

    @dg.asset(name="frame")
    def folder() -> Path:
        (tmp_path / "work" / "inner").mkdir(parents=True)
        (tmp_path / "work" / "inner" / "a.txt").write_text("one")
        return tmp_path / "work"

    materialise(storage, folder, reader_of(Path, seen))
    assert (seen[0] / "inner" / "a.txt").read_text() == "one"
    assert not (tmp_path / "work").exists()


def test_a_value_of_another_kind_is_refused(storage: Path) -> None:
    @dg.asset
    def number() -> int:
        return 3

    with pytest.raises(GenrecError, match="int cannot be stored"):
        materialise(storage, number)
    assert not list(storage.rglob(MANIFEST))


def test_the_newest_version_is_read_by_a_later_run(storage: Path) -> None:
    seen: list[Path] = []
    assets = (frame, reader_of(Path, seen))
    materialise(storage, *assets)
    newest = materialise(storage, *assets, select="frame")
    materialise(storage, *assets, select="reader")
    assert seen[-1] == latest("frame", storage) == storage / "frame" / newest.run_id


def test_a_run_reads_its_own_version_although_the_pointer_moved_on(storage: Path) -> None:
    seen: list[Path] = []

    @dg.asset(deps=[frame])
    def another_run() -> None:
        materialise(storage, frame)

    @dg.asset(deps=[another_run])
    def late_reader(frame: Path) -> None:
        seen.append(frame)

    result = materialise(storage, frame, another_run, late_reader)
    assert seen == [storage / "frame" / result.run_id]
    assert latest("frame", storage) != seen[0]


def test_what_was_never_built_is_named(storage: Path) -> None:
    with pytest.raises(GenrecError, match="materialise frame first"):
        materialise(storage, frame, reader_of(Path, []), select="reader")


def test_a_half_written_version_is_never_loaded(storage: Path) -> None:
    result = materialise(storage, frame)
    (storage / "frame" / result.run_id / MANIFEST).unlink()
    with pytest.raises(GenrecError, match="never finished"):
        materialise(storage, frame, reader_of(pl.DataFrame, []), select="reader")


def test_a_writer_that_fails_leaves_the_old_version_newest(storage: Path) -> None:
    first = materialise(storage, frame)

    @dg.asset(name="frame")
    def unwritable() -> dict[str, float]:
        return {"loss": float("nan")}

    with pytest.raises(ValueError, match="not JSON compliant"):
        materialise(storage, unwritable)
    assert latest("frame", storage) == storage / "frame" / first.run_id
    assert sorted(path.name for path in (storage / "frame").iterdir()) == sorted(["latest.json", first.run_id])


def test_a_full_disk_is_named_and_leaves_the_old_version_newest(small_disk: "SmallDisk") -> None:
    storage = small_disk.folder / "storage"
    first = materialise(storage, frame)
    with small_disk.filled(), pytest.raises(GenrecError, match="no space is left on this disk"):
        materialise(storage, frame)
    assert latest("frame", storage) == storage / "frame" / first.run_id
    assert sorted(path.name for path in (storage / "frame").iterdir()) == sorted(["latest.json", first.run_id])


def test_an_asset_that_fills_the_disk_says_so_and_leaves_nothing(small_disk: "SmallDisk") -> None:
    @dg.asset
    def vectors(context: dg.AssetExecutionContext, work: WorkFolders) -> Path:
        with work.new(context) as folder:
            np.save(folder / "vectors.npy", np.zeros((10_000, 1_000), np.float32))
            return folder

    resources = {"work": WorkFolders(root=str(small_disk.folder))}
    with pytest.raises(GenrecError, match="no space is left on this disk"):
        dg.materialize([vectors], resources={**resources, "io_manager": ArtifactStorage(root=str(small_disk.folder))})
    assert not [path for path in small_disk.folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_of_two_runs_at_once_both_versions_are_whole_and_one_is_the_newest(
    object_server: "ObjectServer", storage: Path, place: str
) -> None:
    root = storage_root("s3://shop/genrec") if place == "bucket" else storage
    together = threading.Barrier(2)

    @dg.asset
    def vectors(context: dg.AssetExecutionContext, work: WorkFolders) -> Path:
        with work.new(context) as folder:
            np.save(folder / "vectors.npy", np.frombuffer(context.run.run_id.encode(), np.uint8))
            together.wait(timeout=60)
            return folder

    resources = {"work": WorkFolders(root=str(root)), "io_manager": ArtifactStorage(root=str(root))}
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(dg.materialize, [vectors], resources=resources) for _ in range(2)]
    versions = [run.result().run_id for run in made]
    for version in versions:
        verify_manifest(version_folder("vectors", version, root))
        assert np.load(root / "vectors" / version / "vectors.npy").tobytes().decode() == version
    assert latest("vectors", root).name in versions
    assert {path.name for path in (root / "vectors").iterdir()} - {LOCK} == {"latest.json", *versions}


def test_a_file_that_was_changed_is_refused(storage: Path) -> None:
    result = materialise(storage, frame)
    file = storage / "frame" / result.run_id / "frame.parquet"
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    with pytest.raises(GenrecError, match=r"frame\.parquet: differs from the sha256"):
        materialise(storage, frame, reader_of(pl.DataFrame, []), select="reader")


def test_size_and_place_of_the_version_are_reported(storage: Path) -> None:
    result = materialise(storage, frame)
    metadata = result.asset_materializations_for_node("frame")[0].metadata
    version = storage / "frame" / result.run_id
    assert metadata["path"].value == str(version)
    assert metadata["size_bytes"].value == (version / "frame.parquet").stat().st_size


@pytest.mark.parametrize("key", ["../../outside", "/outside", "..", "a/../../b"])
def test_a_partition_cannot_leave_its_asset(storage: Path, tmp_path: Path, key: str) -> None:
    """Anybody who may open the UI may name partitions."""
    partitions = dg.DynamicPartitionsDefinition(name="files")

    @dg.asset(partitions_def=partitions)
    def parted() -> pl.DataFrame:
        return FRAME

    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("files", [key])
        result = dg.materialize(
            [parted], instance=instance, partition_key=key, raise_on_error=False,
            resources={"io_manager": ArtifactStorage(root=str(storage))},
        )  # fmt: skip
    assert not result.success
    assert not list(tmp_path.rglob("frame.parquet"))
