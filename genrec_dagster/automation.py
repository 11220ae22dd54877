"""Rebuilds what new raw data changes, and nothing else.

A sensor looks at the raw data and receives them again where they look different. From there each asset follows when
the content of what it was made from has changed, one group of runs after the other: an asset whose inputs come out as
they were is not built, nor what hangs on it.
"""

import os
import warnings
from collections.abc import Iterator

import dagster as dg

from genrec_core.data.archive import fingerprint

RAW_VARIABLE = "GENREC_RAW"
_EVERY_SECONDS = 30
_CODE_VERSION, DATA_VERSION = "dagster/code_version", "dagster/data_version"
_INPUT_VERSION = "dagster/input_data_version/"


class InputsChanged(dg.AutomationCondition[dg.AssetKey]):
    """An asset was made from content, or by code, that is not the newest; and nothing before it is yet to be built.

    It compares what the newest materialisation notes with what there is now, so that a change which arrives while the
    asset is being built is not forgotten. An asset that was never built is left to its user.

    Args:
        pointers: assets that are complete at any time, whatever is being built before them.
    """

    def __init__(self, *pointers: str) -> None:
        self._pointers = {dg.AssetKey(name) for name in pointers}

    @property
    def name(self) -> str:
        """As shown in the UI."""
        return "inputs_changed"

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """True where this asset is the first that has to follow."""
        due = _changed(context, context.key) and not any(_changed(context, key) for key in self._before(context))
        return dg.AutomationResult(context, context.candidate_subset if due else context.get_empty_subset())

    def _before(self, context: dg.AutomationContext[dg.AssetKey]) -> Iterator[dg.AssetKey]:
        """All that the asset is made from, directly or not; no pointer, nor what only a pointer hangs on."""
        graph, seen = context.asset_graph_view.asset_graph, set(self._pointers)
        waiting = list(graph.get(context.key).parent_keys)
        while waiting:
            key = waiting.pop()
            if key not in seen:
                seen.add(key)
                waiting += graph.get(key).parent_keys
                yield key


def _changed(context: dg.AutomationContext[dg.AssetKey], key: dg.AssetKey) -> bool:
    """Whether the newest materialisation of ``key`` notes other inputs, or other code, than there are."""
    instance, node = context.asset_graph_view.instance, context.asset_graph_view.asset_graph.get(key)
    noted = noted_tags(instance, key)
    if not noted:
        return False
    if node.code_version is not None and noted.get(_CODE_VERSION, node.code_version) != node.code_version:
        return True
    for parent in node.parent_keys:
        version = noted_tags(instance, parent).get(DATA_VERSION)
        if version is not None and version != noted.get(f"{_INPUT_VERSION}{parent.to_user_string()}", version):
            return True
    return False


def noted_tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """What the newest materialisation of an asset notes of its content, its inputs and its code; {} without one."""
    event = instance.get_latest_materialization_event(key)
    materialization = event.asset_materialization if event else None
    return dict(materialization.tags or {}) if materialization else {}


def when_inputs_change(*pointers: str) -> dg.AutomationCondition[dg.AssetKey]:
    """Build an asset again when its inputs have changed and passed their blocking checks.

    A build that fails is not tried again before something that it is made from is built again.
    """
    condition = dg.AutomationCondition
    something_new = condition.any_deps_match(condition.newly_updated()) | condition.code_version_changed()
    return (
        InputsChanged(*pointers)
        & ~condition.in_progress()
        & ~condition.newly_requested().since(something_new)
        & condition.all_deps_blocking_checks_passed()
    ).with_label("when its inputs have changed")


with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)  # conditions of one's own are evaluated in the code server: beta
    rebuild = dg.AutomationConditionSensorDefinition(
        "rebuild",
        target=dg.AssetSelection.groups("catalog", "model", "serving"),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=_EVERY_SECONDS,
        use_user_code_server=True,
        description="Builds again what was made from content that has changed.",
    )

receive_raw_data = dg.define_asset_job(
    "receive_raw_data", selection=dg.AssetSelection.assets("raw_beauty"), description="Receive the raw data again."
)


@dg.sensor(
    job=receive_raw_data,
    minimum_interval_seconds=_EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Receives the raw data again when they look different: by size and time of a folder's files or an "
    "archive, by what the server says of a URL.",
)
def raw_data(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request one run for each state of the raw data, once they have been received a first time."""
    if context.instance.get_latest_materialization_event(dg.AssetKey("raw_beauty")) is None:
        return dg.SkipReason("raw_beauty was never built; run `make run`, or materialise the graph once")
    found = fingerprint(os.environ[RAW_VARIABLE])
    if found is None:
        return dg.SkipReason("the raw data changed within the last seconds; they are read when they rest")
    if found == context.cursor:
        return dg.SkipReason("the raw data look as before")
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=found)], cursor=found)


def automation_definitions() -> dg.Definitions:
    """The sensors; the raw data are watched where ``GENREC_RAW`` names some."""
    if not os.environ.get(RAW_VARIABLE):
        return dg.Definitions(sensors=[rebuild])
    return dg.Definitions(sensors=[rebuild, raw_data], jobs=[receive_raw_data])
