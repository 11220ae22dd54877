"""All Dagster definitions of this project."""

import dagster as dg

from genrec_core.storage.folders import storage_root
from genrec_dagster import checks
from genrec_dagster.alerts import alert_definitions
from genrec_dagster.assets import catalog, model, release, serving
from genrec_dagster.automation import automation_definitions
from genrec_dagster.config import ComputeEngine, Gates, Monitoring, ReleaseRule, Rendezvous
from genrec_dagster.inbox_sensor import built_by_their_jobs, request_definitions
from genrec_dagster.io_manager import storage_resources
from genrec_dagster.jobs import ASSET_JOBS, OP_JOBS, daily_monitoring
from genrec_dagster.kubernetes import training_client
from genrec_dagster.liveness import lost_runs
from genrec_dagster.resources import ExperimentTracker, WorkFolders, artifact_root, noted_uri

ROOT = str(storage_root())
TRACKER = ExperimentTracker(tracking_uri=noted_uri(), artifact_root=artifact_root())

defs = built_by_their_jobs(
    request_definitions(),
    dg.Definitions(
        assets=dg.load_assets_from_modules([catalog, model, release, serving]),
        asset_checks=dg.load_asset_checks_from_package_module(checks),
        jobs=[*ASSET_JOBS, *OP_JOBS],
        schedules=[daily_monitoring],
        sensors=[lost_runs],
        resources={
            **storage_resources(storage_root()),
            "work": WorkFolders(root=ROOT),
            "tracker": TRACKER,
            "gates": Gates(),
            "pipes": training_client(),
            "rendezvous": Rendezvous(),
            "engine": ComputeEngine(),
            "release": ReleaseRule(),
            "monitoring": Monitoring(),
        },
        # Few assets could be built side by side, and in one process torch is imported once instead of ten times.
        executor=dg.in_process_executor,
    ),
    automation_definitions(),
    alert_definitions(),
)
