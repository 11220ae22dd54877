"""Everything Dagster knows of this project, on one page."""

import dagster as dg

from genrec_core.storage.folders import storage_root
from genrec_dagster.alerts import alert_definitions
from genrec_dagster.apart import built_by_their_jobs
from genrec_dagster.assets import catalog, model, release, serving
from genrec_dagster.automation import automation_definitions
from genrec_dagster.checks import answers as answer_checks
from genrec_dagster.checks import catalog as catalog_checks
from genrec_dagster.checks import drift as drift_checks
from genrec_dagster.checks import model as model_checks
from genrec_dagster.checks import release as release_checks
from genrec_dagster.checks import serving as serving_checks
from genrec_dagster.config import Gates, Monitoring, ReleaseRule, Rendezvous
from genrec_dagster.engine import ComputeEngine
from genrec_dagster.inbox_sensor import request_definitions
from genrec_dagster.io_manager import storage_resources
from genrec_dagster.jobs import JOBS
from genrec_dagster.kubernetes import training_client
from genrec_dagster.liveness import lost_runs_sensor
from genrec_dagster.monitoring import daily_monitoring, monitor
from genrec_dagster.resources import ExperimentTracker, WorkFolders, artifact_root, noted_uri

ROOT = str(storage_root())
TRACKER = ExperimentTracker(tracking_uri=noted_uri(), artifact_root=artifact_root())

defs = built_by_their_jobs(
    request_definitions(),
    dg.Definitions(
        assets=[
            catalog.raw_beauty,
            catalog.item_catalog,
            catalog.user_histories,
            catalog.item_embeddings,
            catalog.semantic_ids,
            model.tiger_checkpoint,
            model.recall_metrics,
            model.onnx_encoder,
            release.model_release,
            release.served_release,
            serving.batch_predictions,
        ],
        asset_checks=[
            *catalog_checks.CHECKS,
            *drift_checks.CHECKS,
            *model_checks.CHECKS,
            *release_checks.CHECKS,
            *serving_checks.CHECKS,
            *answer_checks.CHECKS,
        ],
        jobs=[*JOBS, monitor],
        schedules=[daily_monitoring],
        sensors=[lost_runs_sensor(TRACKER, storage_root())],
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
        # The graph is nearly a line, so steps in one process lose nothing and torch is imported once, not ten times.
        executor=dg.in_process_executor,
    ),
    automation_definitions(),
    alert_definitions(),
)
