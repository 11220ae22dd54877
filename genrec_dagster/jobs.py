"""What can be run by name: everything, the model, predictions, the way back, each with the checks; and the cleaning."""

from datetime import timedelta
from pathlib import Path

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

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


class CleaningForm(dg.Config):
    """Which versions stay."""

    keep: int = Field(5, ge=1, description="Versions of each asset that stay, the newest ones.")
    least_age_hours: float = Field(24.0, ge=0, description="Versions younger than this stay, whatever their number.")


@dg.op
def remove_old_versions(context: dg.OpExecutionContext, config: CleaningForm, work: WorkFolders) -> None:
    """Remove old versions of every asset; releases that are or were just served stay."""
    from genrec_core.transfer import clean

    least_age = timedelta(hours=config.least_age_hours)
    removed = clean(Path(work.root).absolute(), config.keep, least_age)
    for found in removed:
        context.log.info(f"removed {found.asset} {found.version}{'' if found.whole else ', never finished'}")
    context.add_output_metadata({"removed": len(removed)})


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
]
