"""Do lists show enough of the catalogue, and could everyone be served as asked; nothing is stopped."""

from pathlib import Path

import dagster as dg

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.monitoring.answers import Exposure, exposure_of, miss_shares
from genrec_core.recommend.predict import PredictionReport
from genrec_core.storage.artifacts import read_json
from genrec_dagster.assets.serving import PREDICTIONS, REPORT, batch_predictions, pointed_model
from genrec_dagster.checks.drift import severity_of
from genrec_dagster.checks.verdict import verdict
from genrec_dagster.config import Monitoring
from genrec_dagster.failures import reasons_in_results
from genrec_dagster.resources import WorkFolders


@dg.asset_check(asset=batch_predictions, additional_ins={"served_release": dg.AssetIn("served_release")})
@reasons_in_results
def catalogue_shown(
    batch_predictions: Path, served_release: Path, monitoring: Monitoring, work: WorkFolders
) -> dg.AssetCheckResult:
    """The lists show much of the catalogue, and no few items take all places."""
    item_ids = ModelFolder(pointed_model(served_release, work)).item_ids
    return shows_enough(exposure_of(batch_predictions / PREDICTIONS, item_ids), monitoring)


@dg.asset_check(asset=batch_predictions)
@reasons_in_results
def served_as_asked(batch_predictions: Path, monitoring: Monitoring) -> dg.AssetCheckResult:
    """Few history items are unknown, few users get the popular items, or too few items."""
    return misses_are_few(PredictionReport(**read_json(batch_predictions / REPORT)), monitoring)


def shows_enough(exposure: Exposure, monitoring: Monitoring) -> dg.AssetCheckResult:
    """Coverage of what the lists have places for, and Gini coefficient of exposure where that is every item."""
    for_all = exposure.places >= exposure.items
    passed = exposure.reachable_coverage >= monitoring.min_coverage
    passed &= not for_all or exposure.gini <= monitoring.max_gini
    measured = f"a coverage of {exposure.reachable_coverage:.4g}, a Gini coefficient of {exposure.gini:.4g}"
    wanted = f"a coverage of at least {monitoring.min_coverage:g}"
    wanted += f", a Gini coefficient of at most {monitoring.max_gini:g}" if for_all else ""
    numbers = {
        "coverage": exposure.coverage,
        "reachable_coverage": exposure.reachable_coverage,
        "gini": exposure.gini,
        "places": exposure.places,
    }
    return verdict(passed, measured, wanted, severity=severity_of(monitoring), numbers=numbers)


def misses_are_few(report: PredictionReport, monitoring: Monitoring) -> dg.AssetCheckResult:
    """Shares of unknown history items, popular and short answers, and rejected lines."""
    shares = miss_shares(report)
    bounds = {name: getattr(monitoring, f"max_{name}") for name in shares}
    over = [name for name, share in shares.items() if share > bounds[name]]
    named = {name: name.replace("_", " ") for name in shares}
    measured = ", ".join(f"{named[name]} {share:.4g}" for name, share in shares.items())
    wanted = "at most " + ", ".join(f"{named[name]} {bound:g}" for name, bound in bounds.items())
    detail = f"too many: {', '.join(named[name] for name in over)}" if over else None
    return verdict(not over, measured, wanted, severity=severity_of(monitoring), detail=detail, numbers=shares)


CHECKS = [catalogue_shown, served_as_asked]
