"""The jobs that can be run by name, and the daily schedule of one of them."""

from datetime import timedelta

import dagster as dg
from pydantic import Field

from genrec_core.releases.pointer import RELEASES, SERVED, add_to_served, require_pointer, served_pointer
from genrec_core.storage.artifacts import FRAME
from genrec_core.storage.folders import latest, version_folder
from genrec_dagster.assets.release import pointer_version
from genrec_dagster.automation import DATA_VERSION, noted_tags
from genrec_dagster.checks import drift
from genrec_dagster.config import checked_at_launch
from genrec_dagster.failures import plain_failures
from genrec_dagster.resources import WorkFolders

full_graph = dg.define_asset_job(
    "full_graph",
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups("requests"),  # each request file is a partition
    description="Build everything from the raw files to the predictions, with all checks.",
)

train_model = dg.define_asset_job(
    "train_model",
    selection=dg.AssetSelection.groups("model"),
    description="Train, measure, export and release a model, on the embeddings and semantic IDs in storage.",
)

predict = dg.define_asset_job(
    "predict",
    selection=dg.AssetSelection.groups("serving"),
    description="Predictions for all users in storage, by the served release.",
)

# A person in a hurry needs no config: the job opens with `to: previous`.
roll_back = dg.define_asset_job(
    "roll_back",
    selection=dg.AssetSelection.assets("served_release"),
    config={"ops": {"served_release": {"config": {"to": "previous"}}}},
    description="Serve the release before the served one again, or any version that was served before.",
)

monitor = dg.define_asset_job(
    "monitor",
    selection=dg.AssetSelection.checks(*dg.load_asset_checks_from_modules([drift])),
    description="Compare catalogue and histories in storage with the data that the served release was trained on.",
)


@dg.schedule(
    job=monitor,
    cron_schedule="0 6 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Looks for drift every morning. After a new release it also clears the warnings that no longer apply.",
)
def daily_monitoring(work: WorkFolders) -> dg.RunRequest | dg.SkipReason:
    """Request a run if a release is served."""
    if served_pointer(work.storage) is None:
        return dg.SkipReason("no release is served yet, so there is nothing to compare with")
    return dg.RunRequest()


@checked_at_launch
class CleaningForm(dg.Config):
    """Which versions are kept."""

    keep: int = Field(5, ge=1, description="Number of versions of each asset to keep; the newest are kept.")
    least_age_hours: float = Field(24.0, ge=0, description="Versions younger than this are always kept, in hours.")


@dg.op
@plain_failures
def remove_old_versions(context: dg.OpExecutionContext, config: CleaningForm, work: WorkFolders) -> None:
    """Remove old versions of every asset. The served release and recently served ones are kept."""
    from genrec_core.releases.transfer import clean

    removed = clean(work.storage, config.keep, timedelta(hours=config.least_age_hours))
    for version in removed:
        context.log.info(f"removed {version.asset} {version.version}{'' if version.whole else ', never finished'}")
    context.add_output_metadata({"removed": len(removed)})


@dg.op
@plain_failures
def add_new_items(context: dg.OpExecutionContext, work: WorkFolders) -> None:
    """Add the catalogue's new items to the served release: a successor with these items is served."""
    from genrec_core.bundle.item_additions import new_in_catalog
    from genrec_core.releases.pointer import served_model

    root = work.storage
    before = require_pointer(root)
    catalog, embeddings = latest("item_catalog", root) / FRAME, latest("item_embeddings", root)
    new, vectors = new_in_catalog(served_model(root), catalog, embeddings)
    count = len(new.item_ids)
    context.add_output_metadata({"items_added": count})
    if not count:
        context.log.info("the served release holds every item of the catalogue")
        return
    version, _ = add_to_served(new, vectors, before, root)
    reason = f"{count} items added to {before.version}"
    context.log.info(f"{reason}: release {version} is served")
    # The other tags stay, so that the next release still counts as a change.
    data_version = pointer_version(version_folder(RELEASES, version, root)).value
    tags = {**noted_tags(context.instance, dg.AssetKey(SERVED)), DATA_VERSION: data_version}
    metadata: dict[str, str | int] = {"release": version, "reason": reason, "items_added": count}
    context.log_event(dg.AssetMaterialization(SERVED, metadata=metadata, tags=tags))


@dg.job(description="Add the catalogue's new items to the served release, without training.")
def add_items() -> None:
    """Add the catalogue's new items to the served release."""
    add_new_items()


@dg.job(description="Remove old versions of all assets from the storage.")
def clean_storage() -> None:
    """Remove old versions."""
    remove_old_versions()


ASSET_JOBS, OP_JOBS = (full_graph, train_model, predict, roll_back, monitor), (add_items, clean_storage)
