"""What can be run by name: everything, the model, predictions, the way back, each with its checks; and two chores."""

from datetime import timedelta
from pathlib import Path

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from genrec_core.storage.folders import version_folder
from genrec_dagster.assets.release import pointer_version
from genrec_dagster.automation import DATA_VERSION, noted_tags
from genrec_dagster.bounds import checked_at_launch
from genrec_dagster.failures import plain_failures
from genrec_dagster.resources import WorkFolders

full_graph = dg.define_asset_job(
    "full_graph",
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups("requests"),  # these need a file each
    description="Raw files to predictions, through every check.",
)

# Embeddings and semantic IDs are taken from storage.
train_model = dg.define_asset_job(
    "train_model",
    selection=dg.AssetSelection.groups("model"),
    description="Train, measure, export and release a model on the semantic IDs in storage.",
)

predict = dg.define_asset_job(
    "predict",
    selection=dg.AssetSelection.groups("serving"),
    description="Predictions for the users in storage, by the release that is served.",
)

# "previous" is what is wanted in a hurry; `to` may name any version that was served before.
roll_back = dg.define_asset_job(
    "roll_back",
    selection=dg.AssetSelection.assets("served_release"),
    config={"ops": {"served_release": {"config": {"to": "previous"}}}},
    description="Serve the release before the one that is served.",
)


@checked_at_launch
class CleaningForm(dg.Config):
    """Which versions stay."""

    keep: int = Field(5, ge=1, description="Versions of each asset that stay, the newest ones.")
    least_age_hours: float = Field(24.0, ge=0, description="Versions younger than this stay, whatever their number.")


@dg.op
@plain_failures
def remove_old_versions(context: dg.OpExecutionContext, config: CleaningForm, work: WorkFolders) -> None:
    """Remove old versions of every asset; releases that are or were just served stay."""
    from genrec_core.releases.transfer import clean

    least_age = timedelta(hours=config.least_age_hours)
    removed = clean(Path(work.root).absolute(), config.keep, least_age)
    for found in removed:
        context.log.info(f"removed {found.asset} {found.version}{'' if found.whole else ', never finished'}")
    context.add_output_metadata({"removed": len(removed)})


@dg.op
@plain_failures
def add_new_items(context: dg.OpExecutionContext, work: WorkFolders) -> None:
    """Serve a successor of the served release that holds the catalogue's new items too, where there are any."""
    from genrec_core.releases.pointer import RELEASES, SERVED, add_to_served, require_pointer
    from genrec_dagster.additions import new_in_catalog

    root = Path(work.root).absolute()
    before = require_pointer(root)
    new, vectors = new_in_catalog(root)
    context.add_output_metadata({"items_added": len(new.item_ids)})
    if not len(new.item_ids):
        context.log.info("the served release holds every item of the catalogue")
        return
    version, _ = add_to_served(new, vectors, before, root)
    reason = f"{len(new.item_ids)} items added to {before.version}"
    context.log.info(f"{reason}: release {version} is served")
    metadata: dict[str, str | int] = {
        "release": version,
        "reason": reason,
        "items_added": len(new.item_ids),
    }
    # What it was made from stays as noted, so that the next release still counts as a change of it.
    noted = noted_tags(context.instance, dg.AssetKey(SERVED))
    tags = {**noted, DATA_VERSION: pointer_version(version_folder(RELEASES, version, root)).value}
    context.log_event(dg.AssetMaterialization(SERVED, metadata=metadata, tags=tags))


@dg.job(description="Recommend the catalogue's new items at once: add them to the served release, without training.")
def add_items() -> None:
    """Add the catalogue's new items to the served release."""
    add_new_items()


@dg.job(description="Remove old versions from the storage: all but the newest of each asset.")
def clean_storage() -> None:
    """Remove old versions."""
    remove_old_versions()


JOBS: list[dg.JobDefinition | UnresolvedAssetJobDefinition] = [
    full_graph,
    train_model,
    predict,
    roll_back,
    clean_storage,
    add_items,
]
