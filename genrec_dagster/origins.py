"""From which materialisations artefacts were made, and what the checks of these said, by Dagster's event log."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import dagster as dg

from genrec_dagster.automation import DATA_VERSION, INPUT_VERSION

_INPUT_EVENT = "dagster/input_event_pointer/"
_PAGE = 100
_EVALUATIONS = 100  # newest evaluations of a check that are searched


@dataclass(frozen=True)
class Origin:
    """One materialisation of an asset."""

    asset: str
    run_id: str  # also the name of its version in the storage
    event: int  # its place in the event log
    data_version: str
    inputs: Mapping[str, int]  # the event of each input, by asset

    @classmethod
    def of(cls, record: dg.EventLogRecord) -> "Origin":
        """Read a record of the event log."""
        assert record.asset_materialization is not None
        tags = record.asset_materialization.tags or {}
        inputs = {
            name.removeprefix(_INPUT_EVENT): int(event)
            for name, event in tags.items()
            if name.startswith(_INPUT_EVENT) and event.isdigit()
        }
        asset = record.asset_materialization.asset_key.to_user_string()
        return cls(asset, record.run_id, record.storage_id, tags.get(DATA_VERSION, ""), inputs)


def trace(instance: dg.DagsterInstance, versions: Mapping[str, str]) -> dict[str, list[Origin]]:
    """The materialisations, by asset, of the ``versions`` of artefacts in the storage and of everything upstream.

    They are several for an asset if parts were made from different ones. Artefacts that this instance does not know
    are missing.
    """
    waiting = [_made_in(instance, asset, run_id) for asset, run_id in versions.items()]
    origins: dict[str, list[Origin]] = {}
    while waiting:
        origin = waiting.pop()
        if origin is None or origin in origins.setdefault(origin.asset, []):
            continue
        origins[origin.asset].append(origin)
        waiting += [_at(instance, asset, event) for asset, event in origin.inputs.items()]
    return origins


def conflicts(
    instance: dg.DagsterInstance, origins: Mapping[str, Iterable[Origin]], versions: Mapping[str, str]
) -> list[str]:
    """The assets of which parts were made from different content; ``origins`` is the :func:`trace` of ``versions``.

    If an asset had the same content with old and with new inputs, what was made from it belongs to both.
    """
    different = [name for name, of in origins.items() if len({origin.data_version for origin in of}) > 1]
    return sorted(name for name in different if not _common_versions(instance, origins, versions, name))


def _common_versions(
    instance: dg.DagsterInstance, origins: Mapping[str, Iterable[Origin]], versions: Mapping[str, str], name: str
) -> set[str]:
    """The data versions of the asset ``name`` from which everything in ``origins`` can have been made."""
    allowed = [{origin.data_version} for origin in origins[name] if origin.run_id == versions.get(name)]
    for consumer in (origin for of in origins.values() for origin in of):
        if name in consumer.inputs:
            allowed.append(_made_from(instance, consumer, name))
    return set.intersection(*allowed)


def _made_from(instance: dg.DagsterInstance, origin: Origin, name: str) -> set[str]:
    """The data versions of the input ``name`` from which the same content as that of ``origin`` was made."""
    key = dg.AssetKey.from_user_string(origin.asset)
    records = instance.fetch_materializations(key, limit=_PAGE).records
    tags = [(record.asset_materialization and record.asset_materialization.tags) or {} for record in records]
    input_version = INPUT_VERSION + name
    return {of[input_version] for of in tags if of.get(DATA_VERSION) == origin.data_version and input_version in of}


def evaluation_of(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, origins: Iterable[Origin]
) -> dg.AssetCheckEvaluation | None:
    """The newest evaluation of a check on one of these materialisations; None if there is none."""
    events = {origin.event for origin in origins}
    # The instance itself gives only the newest evaluation, of whatever materialisation.
    for record in instance.event_log_storage.get_asset_check_execution_history(check, limit=_EVALUATIONS):
        evaluation = record.event and record.event.dagster_event and record.event.dagster_event.event_specific_data
        if not isinstance(evaluation, dg.AssetCheckEvaluation) or not evaluation.target_materialization_data:
            continue
        if evaluation.target_materialization_data.storage_id in events:
            return evaluation
    return None


def _made_in(instance: dg.DagsterInstance, asset: str, run_id: str) -> Origin | None:
    """The materialisation of an asset by a run.

    The run's own records are of no use: if Dagster keeps one file a run, their numbers differ from those in the tags.
    """
    key, cursor, more = dg.AssetKey.from_user_string(asset), None, True
    while more:
        page = instance.fetch_materializations(key, limit=_PAGE, cursor=cursor)
        for record in page.records:
            if record.run_id == run_id:
                return Origin.of(record)
        cursor, more = page.cursor, page.has_more
    return None


def _at(instance: dg.DagsterInstance, asset: str, event: int) -> Origin | None:
    records_filter = dg.AssetRecordsFilter(asset_key=dg.AssetKey.from_user_string(asset), storage_ids=[event])
    records = instance.fetch_materializations(records_filter, limit=1).records
    return Origin.of(records[0]) if records else None
