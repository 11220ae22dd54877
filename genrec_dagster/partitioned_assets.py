"""Keeps partitioned assets out of "Materialize all".

That button covers all assets that the page can build. If one of them has partitions, it asks for partitions and
launches nothing without. So the graph shows these assets as external ones, with their partitions and checks. Only their
own jobs build them.
"""

import warnings
from collections.abc import Mapping, Sequence

import dagster as dg


def built_by_their_jobs(partitioned: dg.Definitions, *graph: dg.Definitions) -> dg.Definitions:
    """Merge all definitions so that only the jobs and sensors of ``partitioned`` build its assets.

    Args:
        partitioned: assets, jobs of them, and sensors of these jobs.
        graph: the assets upstream, and the resources that both need.
    """
    if not partitioned.assets:
        return dg.Definitions.merge(*graph)
    whole = dg.Definitions.merge(*graph, partitioned)
    jobs = {job.name: whole.resolve_job_def(job.name) for job in partitioned.jobs or []}
    assets = [asset for asset in partitioned.assets if isinstance(asset, dg.AssetsDefinition)]
    external = dg.Definitions(
        assets=[spec for asset in assets for spec in asset.specs],
        asset_checks=[_external_checks([spec for asset in assets for spec in asset.check_specs])],
        jobs=list(jobs.values()),
        sensors=[_sensor_of(sensor, jobs) for sensor in partitioned.sensors or []],
        resources=partitioned.resources,
    )
    return dg.Definitions.merge(*graph, external)


def _external_checks(specs: Sequence[dg.AssetCheckSpec]) -> dg.AssetChecksDefinition:
    """The checks as the assets' pages show them; the jobs evaluate them with each partition."""

    @dg.multi_asset_check(specs=specs)
    def evaluated_with_each_partition() -> dg.AssetCheckResult:
        raise dg.Failure("these checks run with each partition; run the job serve_again for it", allow_retries=False)

    return evaluated_with_each_partition


def _sensor_of(sensor: dg.SensorDefinition, jobs: Mapping[str, dg.JobDefinition]) -> dg.SensorDefinition:
    """The sensor with its resolved job. Dagster would look for the job's assets in the graph, which only shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # this call passes on a beta argument
        return sensor.with_updated_job(jobs[str(sensor.job_name)])
