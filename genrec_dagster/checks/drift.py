"""Checks that compare the present data with the data that the served release was trained on. They only warn."""

from collections.abc import Callable

import dagster as dg
import polars as pl

from genrec_core.errors import GenrecError
from genrec_core.monitoring.drift import Profile, length_shift, popularity_shift, read_profile, unknown_entries
from genrec_core.releases.pointer import served_pointer, served_release
from genrec_dagster.assets.catalog import item_catalog, user_histories
from genrec_dagster.checks.check import check_result, skipped, warning
from genrec_dagster.config import Monitoring
from genrec_dagster.resources import WorkFolders

Drift = tuple[float, str]  # how far the data moved, and what to do about it
_RETRAIN = "train and release on the present data, or raise the bound"


def _drift_check(
    asset: dg.AssetsDefinition, bound: str, what: str
) -> Callable[[Callable[[pl.DataFrame, Profile], Drift]], dg.AssetChecksDefinition]:
    """Decorate a measure of how far an asset's value has drifted from the data of the served release.

    ``bound`` is the field of :class:`Monitoring` that holds the largest allowed drift; ``what`` names the measure.
    """

    def decorate(measure: Callable[[pl.DataFrame, Profile], Drift]) -> dg.AssetChecksDefinition:
        def check(data: pl.DataFrame, monitoring: Monitoring, work: WorkFolders) -> dg.AssetCheckResult:
            root, severity = work.storage, severity_of(monitoring)
            if served_pointer(root) is None:
                return skipped("no release is served yet")
            try:
                trained = read_profile(served_release(root))
            except GenrecError as error:
                wanted, remedy = "a profile of the served release", "materialise model_release, then served_release"
                return check_result(False, "no profile", wanted, severity=severity, detail=f"{error}; {remedy}")
            drift, advice = measure(data, trained)
            largest = getattr(monitoring, bound)
            wanted, detail = f"at most {largest:g} ({what})", advice if drift > largest else None
            return check_result(drift <= largest, drift, wanted, severity=severity, detail=detail)

        check.__name__, check.__doc__ = measure.__name__, measure.__doc__
        return warning(asset)(check)

    return decorate


@_drift_check(item_catalog, "max_new_items", "share of new items")
def new_items(catalog: pl.DataFrame, trained: Profile) -> Drift:
    """The served release knows almost all items of the catalogue."""
    new, share = unknown_entries(catalog["item_id"], pl.Series(trained.item_ids))
    return share, f"{new} of {catalog.height} items are new; add them (job add_items), or {_RETRAIN}"


@_drift_check(item_catalog, "max_gone_items", "share of the release's items that are gone")
def gone_items(catalog: pl.DataFrame, trained: Profile) -> Drift:
    """Almost all items that the served release recommends are still in the catalogue."""
    gone, share = unknown_entries(pl.Series(trained.item_ids), catalog["item_id"])
    advice = f"{gone} of {len(trained.item_ids)} items are gone; withdraw them (genrec withdraw), or {_RETRAIN}"
    return share, advice


@_drift_check(user_histories, "max_unknown_items", "share of unknown history items")
def unknown_items(histories: pl.DataFrame, trained: Profile) -> Drift:
    """The served release knows almost every item that users bought."""
    items = histories["item_ids"].explode(empty_as_null=False)
    return unknown_entries(items, pl.Series(trained.item_ids))[
        1
    ], f"serving drops these items from histories; {_RETRAIN}"


@_drift_check(user_histories, "max_length_shift", "population stability index of history lengths")
def history_lengths(histories: pl.DataFrame, trained: Profile) -> Drift:
    """Histories are about as long as those that the served release was trained on."""
    return length_shift(trained.lengths, Profile.of(histories).lengths), _RETRAIN


@_drift_check(user_histories, "max_popularity_shift", "Jensen-Shannon distance of the items' shares")
def item_popularity(histories: pl.DataFrame, trained: Profile) -> Drift:
    """Each item has about the share of purchases that it had when the served release was trained."""
    chance = "with a few purchases an item, chance alone gives 0.4"
    return popularity_shift(trained, Profile.of(histories)), f"{_RETRAIN}; {chance}"


def severity_of(monitoring: Monitoring) -> dg.AssetCheckSeverity:
    """The severity of a failed monitoring check, by ``monitoring.severity``."""
    return dg.AssetCheckSeverity(monitoring.severity.upper())
