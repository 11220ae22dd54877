"""Have the data moved away from what the served release was trained on; nothing is stopped, numbers are shown."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import polars as pl

from genrec_core.errors import GenrecError
from genrec_core.monitoring.drift import catalog_drift, length_shift, popularity_shift, unknown_share
from genrec_core.monitoring.profile import Profile, read_profile
from genrec_core.releases.pointer import served_pointer
from genrec_core.releases.pointer import served_release as served_folder
from genrec_dagster.assets.catalog import item_catalog, user_histories
from genrec_dagster.checks.verdict import verdict
from genrec_dagster.config import Monitoring
from genrec_dagster.failures import reasons_in_results
from genrec_dagster.resources import WorkFolders

_RETRAIN = "train and release on the present data, or raise the bound"


@dg.asset_check(asset=item_catalog)
@reasons_in_results
def new_items(item_catalog: pl.DataFrame, monitoring: Monitoring, work: WorkFolders) -> dg.AssetCheckResult:
    """The served release knows almost all items of the catalogue."""

    def compare(trained: Profile) -> dg.AssetCheckResult:
        found = catalog_drift(trained, item_catalog["item_id"].to_numpy())
        detail = f"{found.new} of {found.items} items are new; add them (job add_items), or {_RETRAIN}"
        return _within(found.new_share, monitoring.max_new_items, "of the items new", monitoring, detail)

    return _against_served(work, monitoring, compare)


@dg.asset_check(asset=item_catalog)
@reasons_in_results
def gone_items(item_catalog: pl.DataFrame, monitoring: Monitoring, work: WorkFolders) -> dg.AssetCheckResult:
    """Almost all items that the served release recommends are still in the catalogue."""

    def compare(trained: Profile) -> dg.AssetCheckResult:
        found = catalog_drift(trained, item_catalog["item_id"].to_numpy())
        detail = f"{found.gone} of {found.trained} items are gone; withdraw them (genrec withdraw), or {_RETRAIN}"
        return _within(found.gone_share, monitoring.max_gone_items, "of the release's items gone", monitoring, detail)

    return _against_served(work, monitoring, compare)


@dg.asset_check(asset=user_histories)
@reasons_in_results
def unknown_items(user_histories: pl.DataFrame, monitoring: Monitoring, work: WorkFolders) -> dg.AssetCheckResult:
    """The served release knows almost everything that users bought."""

    def compare(trained: Profile) -> dg.AssetCheckResult:
        share = unknown_share(trained, user_histories)
        detail = f"serving drops them from histories; {_RETRAIN}"
        return _within(share, monitoring.max_unknown_items, "of the history entries unknown", monitoring, detail)

    return _against_served(work, monitoring, compare)


@dg.asset_check(asset=user_histories)
@reasons_in_results
def history_lengths(user_histories: pl.DataFrame, monitoring: Monitoring, work: WorkFolders) -> dg.AssetCheckResult:
    """Histories are about as long as those that the served release was trained on."""

    def compare(trained: Profile) -> dg.AssetCheckResult:
        shift = length_shift(trained.lengths, Profile.of(user_histories).lengths)
        wanted = "as population stability index of their lengths"
        return _within(shift, monitoring.max_length_shift, wanted, monitoring, _RETRAIN)

    return _against_served(work, monitoring, compare)


@dg.asset_check(asset=user_histories)
@reasons_in_results
def item_popularity(user_histories: pl.DataFrame, monitoring: Monitoring, work: WorkFolders) -> dg.AssetCheckResult:
    """Items are bought in about the shares that the served release was trained on."""

    def compare(trained: Profile) -> dg.AssetCheckResult:
        shift = popularity_shift(trained, Profile.of(user_histories))
        detail = f"independent draws of as many interactions differ by {shift.noise:.4g}; {_RETRAIN}"
        wanted = "as Jensen-Shannon distance of the items' shares"
        return _within(shift.distance, monitoring.max_popularity_shift, wanted, monitoring, detail)

    return _against_served(work, monitoring, compare)


def _against_served(
    work: WorkFolders, monitoring: Monitoring, compare: Callable[[Profile], dg.AssetCheckResult]
) -> dg.AssetCheckResult:
    """Compare with what the served release was trained on, where there is one that keeps it."""
    root = Path(work.root).absolute()
    if served_pointer(root) is None:
        return verdict(True, "no comparison, as nothing is served yet", "none")
    try:
        trained = read_profile(served_folder(root))
    except GenrecError as error:
        severity = severity_of(monitoring)
        return verdict(False, "no comparison", "one with the served release", severity=severity, detail=str(error))
    return compare(trained)


def _within(share: float, most: float, what: str, monitoring: Monitoring, detail: str) -> dg.AssetCheckResult:
    passed = share <= most
    wanted = f"at most {most:g} {what}"
    return verdict(passed, share, wanted, severity=severity_of(monitoring), detail=None if passed else detail)


def severity_of(monitoring: Monitoring) -> dg.AssetCheckSeverity:
    """What a check of this kind is when it fails."""
    return dg.AssetCheckSeverity(monitoring.severity.upper())


CHECKS = [new_items, gone_items, unknown_items, history_lengths, item_popularity]
