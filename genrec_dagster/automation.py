"""When assets are rebuilt without a person, and how old they may become.

A sensor receives the raw data again if they look different. Then each asset is rebuilt if the content of its inputs has
changed. An asset whose inputs come out the same is not rebuilt, nor is anything after it.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import dagster as dg

from genrec_core.data.archive import fingerprint
from genrec_core.settings import freshness_from_environment

RAW_VARIABLE = "GENREC_RAW"
_EVERY_SECONDS = 30
_CODE_VERSION, DATA_VERSION = "dagster/code_version", "dagster/data_version"
INPUT_VERSION = "dagster/input_data_version/"
FRESHNESS = freshness_from_environment()


def fresh_within(hours: float) -> dg.FreshnessPolicy:
    """An asset is stale if it was not rebuilt for ``hours``; half of that is a warning."""
    return dg.FreshnessPolicy.time_window(timedelta(hours=hours), timedelta(hours=hours / 2))


class InputsChanged(dg.AutomationCondition[dg.AssetKey]):
    """True if an asset's inputs or code changed since it was built, and no asset upstream must be rebuilt first.

    It compares the versions that the newest materialisation notes with the present ones. So a change that arrives while
    the asset is being built is not forgotten. An asset that was never built is left to its user. The value of
    ``pointers`` is valid at any time, even while their inputs are being rebuilt.
    """

    def __init__(self, *pointers: str) -> None:
        self._pointers = {dg.AssetKey(name) for name in pointers}

    @property
    def name(self) -> str:
        """The condition's name in the UI."""
        return "inputs_changed"

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        """The asset, if it must be rebuilt now; otherwise nothing."""
        due = _changed(context, context.key) and not any(_changed(context, key) for key in self._upstream(context))
        return dg.AutomationResult(context, context.candidate_subset if due else context.get_empty_subset())

    def _upstream(self, context: dg.AutomationContext[dg.AssetKey]) -> Iterator[dg.AssetKey]:
        """All assets upstream. Pointers are left out, and with them what is upstream of pointers only."""
        graph, seen = context.asset_graph_view.asset_graph, set(self._pointers)
        waiting = list(graph.get(context.key).parent_keys)
        while waiting:
            key = waiting.pop()
            if key not in seen:
                seen.add(key)
                waiting += graph.get(key).parent_keys
                yield key


def _changed(context: dg.AutomationContext[dg.AssetKey], key: dg.AssetKey) -> bool:
    """Whether the inputs or the code of ``key`` differ from those of its newest materialisation."""
    instance, node = context.asset_graph_view.instance, context.asset_graph_view.asset_graph.get(key)
    noted = noted_tags(instance, key)
    if not noted:
        return False
    if node.code_version is not None and noted.get(_CODE_VERSION, node.code_version) != node.code_version:
        return True
    for parent in node.parent_keys:
        version = noted_tags(instance, parent).get(DATA_VERSION)
        if version is not None and version != noted.get(f"{INPUT_VERSION}{parent.to_user_string()}", version):
            return True
    return False


def noted_tags(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """The tags of an asset's newest materialisation: versions of content, inputs and code; {} if there is none."""
    event = instance.get_latest_materialization_event(key)
    materialization = event.asset_materialization if event else None
    return dict(materialization.tags or {}) if materialization else {}


def rebuilt_asset(group: str, *pointers: str, **options: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Decorate an asset of ``group`` that is rebuilt when its inputs have changed and passed their blocking checks.

    A failed build is repeated only after one of its inputs is built again. ``options`` are those of ``dg.asset``.
    """
    condition = dg.AutomationCondition
    something_new = condition.any_deps_match(condition.newly_updated()) | condition.code_version_changed()
    inputs_changed = (
        InputsChanged(*pointers)
        & ~condition.in_progress()
        & ~condition.newly_requested().since(something_new)
        & condition.all_deps_blocking_checks_passed()
    ).with_label("when its inputs have changed")
    decorate: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
        group_name=group, owners=["team:recsys"], automation_condition=inputs_changed, **options
    )
    return decorate


with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)  # use_user_code_server, which InputsChanged needs, is beta
    rebuild = dg.AutomationConditionSensorDefinition(
        "rebuild",
        target=dg.AssetSelection.groups("catalog", "model", "serving"),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=_EVERY_SECONDS,
        use_user_code_server=True,
        description="Rebuilds each asset whose inputs have changed.",
    )

receive_raw_data = dg.define_asset_job(
    "receive_raw_data", selection=dg.AssetSelection.assets("raw_beauty"), description="Receive the raw data again."
)


@dg.sensor(
    job=receive_raw_data,
    minimum_interval_seconds=_EVERY_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Receives the raw data again when they look different: for a folder or an archive by size and time, "
    "for a URL by the server's answer.",
)
def raw_data(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Request one run for each new state of the raw data, after they were received for the first time."""
    if context.instance.get_latest_materialization_event(dg.AssetKey("raw_beauty")) is None:
        return dg.SkipReason("raw_beauty was never built; run `make run`, or materialise the graph once")
    state = fingerprint(os.environ[RAW_VARIABLE])
    if state is None:
        return dg.SkipReason("the raw data changed within the last seconds; they are read when they no longer change")
    if state == context.cursor:
        return dg.SkipReason("the raw data look as before")
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=state)], cursor=state)


def automation_definitions() -> dg.Definitions:
    """The sensors. The raw data are watched only if ``GENREC_RAW`` names them."""
    if not os.environ.get(RAW_VARIABLE):
        return dg.Definitions(sensors=[rebuild])
    return dg.Definitions(sensors=[rebuild, raw_data], jobs=[receive_raw_data])
