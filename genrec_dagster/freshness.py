"""How old the newest version of an asset may become before Dagster calls it stale."""

from datetime import timedelta

import dagster as dg

from genrec_core.settings import freshness_from_environment

FRESHNESS = freshness_from_environment()


def fresh_within(hours: float) -> dg.FreshnessPolicy:
    """An asset that was not built anew for ``hours`` is stale; half of that is a warning."""
    return dg.FreshnessPolicy.time_window(timedelta(hours=hours), timedelta(hours=hours / 2))
