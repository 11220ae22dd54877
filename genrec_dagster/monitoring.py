"""Compares the data with what the served release was trained on, every day and on request."""

from pathlib import Path

import dagster as dg

from genrec_core.releases.pointer import served_pointer
from genrec_dagster.checks import drift
from genrec_dagster.resources import WorkFolders

_EVERY_DAY = "0 6 * * *"

monitor = dg.define_asset_job(
    "monitor",
    selection=dg.AssetSelection.checks(*drift.CHECKS),
    description="Compare catalogue and histories in storage with what the served release was trained on.",
)


@dg.schedule(
    job=monitor,
    cron_schedule=_EVERY_DAY,
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Looks for drift every morning, and after a release takes the warnings back that it settled.",
)
def daily_monitoring(work: WorkFolders) -> dg.RunRequest | dg.SkipReason:
    """Ask for a run where a release is served."""
    if served_pointer(Path(work.root).absolute()) is None:
        return dg.SkipReason("no release is served yet, so there is nothing to compare with")
    return dg.RunRequest()
