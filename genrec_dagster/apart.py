"""Partitioned assets beside a graph whose "Materialize all" must not ask for a partition.

Dagster's button covers every asset of the page that the page can build. Once one of them has partitions, it asks for
some and launches nothing without. So the graph shows such assets as built elsewhere, with partitions and checks, and
their own jobs build them.
"""

import warnings
from collections.abc import Mapping, Sequence

import dagster as dg


def built_by_their_jobs(partitioned: dg.Definitions, *graph: dg.Definitions) -> dg.Definitions:
    """All of ``graph`` with the assets of ``partitioned``, which only the jobs and sensors of ``partitioned`` build.

    Args:
        partitioned: assets, jobs of them, and sensors of these jobs.
        graph: all that these assets are made from, and the resources that they need.
    """
    if not partitioned.assets:
        return dg.Definitions.merge(*graph)
    whole = dg.Definitions.merge(*graph, partitioned)
    jobs = {job.name: whole.resolve_job_def(job.name) for job in partitioned.jobs or []}
    assets = [asset for asset in partitioned.assets if isinstance(asset, dg.AssetsDefinition)]
    shown = dg.Definitions(
        assets=[spec for asset in assets for spec in asset.specs],
        asset_checks=[_shown_checks([spec for asset in assets for spec in asset.check_specs])],
        jobs=list(jobs.values()),
        sensors=[_over_the_jobs(sensor, jobs) for sensor in partitioned.sensors or []],
        resources=partitioned.resources,
    )
    return dg.Definitions.merge(*graph, shown)


def _shown_checks(specs: Sequence[dg.AssetCheckSpec]) -> dg.AssetChecksDefinition:
    """The checks that the jobs evaluate with each partition, so that the assets' pages show what they found."""

    @dg.multi_asset_check(specs=specs)
    def evaluated_with_each_partition() -> dg.AssetCheckResult:
        raise dg.Failure("these checks run with each partition; run the job serve_again for it", allow_retries=False)

    return evaluated_with_each_partition


def _over_the_jobs(sensor: dg.SensorDefinition, jobs: Mapping[str, dg.JobDefinition]) -> dg.SensorDefinition:
    """The sensor over the jobs as they are; Dagster would look for their assets among those that the graph builds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # of an argument that this call passes on
        return sensor.with_updated_job(jobs[str(sensor.job_name)])
