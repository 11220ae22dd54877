"""From which materialisations artefacts came, and what their checks said of exactly these, by Dagster's event log."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import dagster as dg

_INPUT_EVENT = "dagster/input_event_pointer/"
_DATA_VERSION = "dagster/data_version"
_INPUT_VERSION = "dagster/input_data_version/"
_PAGE = 100
_EVALUATIONS = 100  # of one check that are looked through, the newest first


@dataclass(frozen=True)
class Origin:
    """One materialisation of an asset.

    Args:
        asset: the asset's name.
        run_id: the run that made it, and so the name of its version in the storage.
        event: its place in the event log.
        data_version: a hash of its content.
        inputs: events of what it was made from, by asset.
    """

    asset: str
    run_id: str
    event: int
    data_version: str
    inputs: Mapping[str, int]

    @classmethod
    def of(cls, record: dg.EventLogRecord) -> "Origin":
        """What a record of the event log says."""
        materialization = record.asset_materialization
        assert materialization is not None
        tags = materialization.tags or {}
        inputs = {
            name.removeprefix(_INPUT_EVENT): int(event)
            for name, event in tags.items()
            if name.startswith(_INPUT_EVENT) and event.isdigit()
        }
        asset = materialization.asset_key.to_user_string()
        return cls(asset, record.run_id, record.storage_id, tags.get(_DATA_VERSION, ""), inputs)


def trace(instance: dg.DagsterInstance, versions: Mapping[str, str]) -> dict[str, list[Origin]]:
    """The materialisations of artefacts and of all that they were made from.

    Args:
        instance: what holds the event log.
        versions: the version in the storage of each artefact, by asset.

    Returns:
        by asset its materialisations; several where parts were made from different ones. An artefact that this
        instance knows nothing of is missing.
    """
    waiting = [found for asset, run_id in versions.items() if (found := _made_in(instance, asset, run_id))]
    traced: dict[str, list[Origin]] = {}
    while waiting:
        origin = waiting.pop()
        if origin in traced.setdefault(origin.asset, []):
            continue
        traced[origin.asset].append(origin)
        waiting += [found for asset, event in origin.inputs.items() if (found := _at(instance, asset, event))]
    return traced


def conflicts(
    instance: dg.DagsterInstance, traced: Mapping[str, Iterable[Origin]], versions: Mapping[str, str]
) -> list[str]:
    """The assets of which parts were made from different content.

    Where an asset came out the same from old and from new inputs, what was made from it belongs to both.

    Args:
        instance: what holds the event log.
        traced: what :func:`trace` found.
        versions: the versions that it was asked for, by asset.
    """
    different = [name for name, origins in traced.items() if len({origin.data_version for origin in origins}) > 1]
    return sorted(name for name in different if not _common_versions(instance, traced, versions, name))


def _common_versions(
    instance: dg.DagsterInstance, traced: Mapping[str, Iterable[Origin]], versions: Mapping[str, str], name: str
) -> set[str]:
    """The data versions of an asset from which everything traced can have been made."""
    allowed = [{origin.data_version} for origin in traced[name] if origin.run_id == versions.get(name)]
    for consumer in (origin for origins in traced.values() for origin in origins):
        if name in consumer.inputs:
            allowed.append(_made_from(instance, consumer, name))
    return set.intersection(*allowed)


def _made_from(instance: dg.DagsterInstance, origin: Origin, name: str) -> set[str]:
    """The data versions of the input ``name`` from which content as that of ``origin`` was made."""
    found = set()
    for record in instance.fetch_materializations(dg.AssetKey.from_user_string(origin.asset), limit=_PAGE).records:
        materialization = record.asset_materialization
        tags = (materialization.tags if materialization else None) or {}
        if tags.get(_DATA_VERSION) == origin.data_version and _INPUT_VERSION + name in tags:
            found.add(tags[_INPUT_VERSION + name])
    return found


def evaluation_of(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, origins: Iterable[Origin]
) -> dg.AssetCheckEvaluation | None:
    """The newest evaluation of a check that looked at one of these materialisations; None where there is none."""
    events = {origin.event for origin in origins}
    # The instance itself gives the newest evaluation only, whatever it looked at.
    for record in instance.event_log_storage.get_asset_check_execution_history(check, limit=_EVALUATIONS):
        found = record.event and record.event.dagster_event and record.event.dagster_event.event_specific_data
        if not isinstance(found, dg.AssetCheckEvaluation) or not found.target_materialization_data:
            continue
        if found.target_materialization_data.storage_id in events:
            return found
    return None


def _made_in(instance: dg.DagsterInstance, asset: str, run_id: str) -> Origin | None:
    """What a run made of an asset.

    Not by the run's own records: where Dagster keeps a file a run, these have other numbers than the ones it refers to.
    """
    key, cursor, more = dg.AssetKey.from_user_string(asset), None, True
    while more:
        page = instance.fetch_materializations(key, limit=_PAGE, cursor=cursor)
        if found := next((record for record in page.records if record.run_id == run_id), None):
            return Origin.of(found)
        cursor, more = page.cursor, page.has_more
    return None


def _at(instance: dg.DagsterInstance, asset: str, event: int) -> Origin | None:
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey.from_user_string(asset), storage_ids=[event])
    records = instance.fetch_materializations(wanted, limit=1).records
    return Origin.of(records[0]) if records else None
