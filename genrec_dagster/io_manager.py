"""Stores asset values as versions in folders, and verifies a version's manifest whenever it is read."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from dagster._core.errors import DagsterInvariantViolationError
from upath import UPath

from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import SERVED, move_served
from genrec_core.storage.artifacts import (
    FRAME,
    MANIFEST,
    atomic_folder,
    read_json,
    verify_manifest,
    write_json,
    write_manifest,
)
from genrec_core.storage.folders import NotBuiltError, latest, place_of, set_latest, version_folder
from genrec_core.storage.object_store import SCHEME
from genrec_dagster.failures import plain_failures
from genrec_dagster.liveness import note_worker

CONTENT = "content.json"


class ArtifactIOManager(dg.UPathIOManager):
    """Stores a polars frame as Parquet, a dict as JSON, and a :class:`~pathlib.Path` as the folder that it names.

    A value becomes ``{root}/{asset}/{run_id}/`` in one rename. Its ``manifest.json`` is written last, and then
    ``{root}/{asset}/latest.json`` points to it. A reader gets the version of its own run, or else the newest. An input
    annotated ``Path`` gets the folder.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(base_path=UPath(root))

    def get_path_for_partition(self, context: dg.InputContext | dg.OutputContext, path: UPath, partition: str) -> UPath:
        """The folder of a partition. Anybody who may open the UI can name one, so the name is checked."""
        if Path(partition).name != partition or partition.startswith("."):
            raise GenrecError(f"partition {partition!r} cannot name a folder; delete it and add one with another name")
        return super().get_path_for_partition(context, path, partition)

    @plain_failures
    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:
        """Store ``obj`` as this run's version below ``path``. A folder is moved, not copied."""
        store = Path(str(path))
        with atomic_folder(store / context.run_id) as part:
            _write_value(part, obj)
            write_manifest(part)
        if store.name == SERVED:
            move_served(context.run_id, store.parent)  # fails if another release was served meanwhile
        else:
            set_latest(store.name, context.run_id, store.parent)

    @plain_failures
    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        """The value below ``path``, after its files were verified."""
        folder = _version_for(context, Path(str(path)))
        verify_manifest(folder)
        return folder if context.dagster_type.typing_type is Path else _read_value(folder)

    def get_metadata(self, context: dg.OutputContext, obj: Any) -> dict[str, dg.MetadataValue]:
        """The version's folder and size."""
        paths = self._get_paths_for_partitions(context) if context.has_asset_partitions else {}
        folder = Path(str(next(iter(paths.values()), None) or self._get_path(context))) / context.run_id
        files = read_json(folder / MANIFEST)["files"]
        return {
            "path": dg.MetadataValue.path(folder),
            "size_bytes": dg.MetadataValue.int(sum(file["bytes"] for file in files.values())),
        }


class ArtifactStorage(dg.ConfigurableIOManagerFactory[ArtifactIOManager]):
    """The folder that holds the versions of all assets."""

    root: str

    def create_io_manager(self, context: dg.InitResourceContext) -> ArtifactIOManager:
        """The IO manager of ``root``. It also tags the run with this process."""
        if context.run is not None and context.instance is not None:
            note_worker(context.instance, context.run)
        return ArtifactIOManager(Path(self.root).absolute())


def storage_resources(root: Path) -> dict[str, Any]:
    """The IO manager of a storage. A storage in a bucket also has the resource ``s3``."""
    if place_of(root).startswith(SCHEME):
        from genrec_dagster.bucket import bucket_resources

        return bucket_resources(root)
    return {"io_manager": ArtifactStorage(root=str(root))}


def _write_value(folder: Path, value: Any) -> None:
    if isinstance(value, Path):
        folder.rmdir()
        shutil.move(value, folder)
    elif isinstance(value, pl.DataFrame):
        value.write_parquet(folder / FRAME)
    elif isinstance(value, dict):
        write_json(folder / CONTENT, value)
    else:
        raise GenrecError(f"a {type(value).__name__} cannot be stored; return a frame of polars, a dict or a Path")


def _read_value(folder: Path) -> Any:
    if (folder / FRAME).is_file():
        return pl.read_parquet(folder / FRAME)
    if (folder / CONTENT).is_file():
        return read_json(folder / CONTENT)
    return folder


def _version_for(context: dg.InputContext, store: Path) -> Path:
    """The folder of this run's version if it is finished, or else of the newest version."""
    run_id: str | None
    try:
        run_id = context.step_context.run_id
    except DagsterInvariantViolationError:  # outside a run, as in Definitions.load_asset_value
        run_id = None
    if run_id is not None and (store / run_id / MANIFEST).is_file():
        return version_folder(store.name, run_id, store.parent)
    try:
        return latest(store.name, store.parent)
    except NotBuiltError as error:
        raise GenrecError(f"{error}; materialise {context.asset_key.to_user_string()} first") from error
