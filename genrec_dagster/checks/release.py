"""Gates of a release, and a check that MLflow's alias names the served one."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from genrec_core.releases.pointer import CHECKPOINT, FACTS, MODEL, RELEASES, measured_in, read_pointer, served_pointer
from genrec_core.releases.transfer import compared_models
from genrec_core.storage.artifacts import read_json
from genrec_core.storage.folders import version_folder
from genrec_dagster.assets.release import CHAMPION, NOTHING_SERVED, RULE, model_release, served_release
from genrec_dagster.checks import catalog, model
from genrec_dagster.checks.check import WARN, check_result, gate, skipped, warning
from genrec_dagster.config import ReleaseRule
from genrec_dagster.metadata import Row, table
from genrec_dagster.origins import Origin, conflicts, evaluation_of, trace
from genrec_dagster.resources import WorkFolders

if TYPE_CHECKING:
    from genrec_core.evaluation.release_comparison import Comparison, Judgement

GATES = [
    spec for check in dg.load_asset_checks_from_modules([catalog, model]) for spec in check.check_specs if spec.blocking
]


@gate(model_release)
def gates_passed(context: dg.AssetCheckExecutionContext, model_release: Path) -> dg.AssetCheckResult:
    """Every gate upstream passed on exactly the versions from which this release was made."""
    origins = trace(context.instance, read_json(model_release / FACTS)["parts"])
    rows = [_gate_row(context.instance, spec, origins.get(spec.asset_key.to_user_string(), [])) for spec in GATES]
    not_passed = [f"{row['asset']} {row['gate']}: {row['result']}" for row in rows if row["result"] != "passed"]
    detail = f"run the checks of that asset, or materialise it again; {'; '.join(not_passed)}" if not_passed else None
    measured, wanted = f"{len(rows) - len(not_passed)} gates passed", f"{len(rows)} gates passed"
    return check_result(not not_passed, measured, wanted, detail=detail, metadata={"gates": table(rows)})


@gate(model_release)
def parts_belong_together(context: dg.AssetCheckExecutionContext, model_release: Path) -> dg.AssetCheckResult:
    """Checkpoint, semantic IDs, metrics and export were made from one another and from the same data."""
    parts = read_json(model_release / FACTS)["parts"]
    origins = trace(context.instance, parts)
    unknown = sorted(set(parts) - set(origins))
    different = conflicts(context.instance, origins, parts)
    faults = [f"{name}: not materialised in this Dagster instance" for name in unknown]
    faults += [f"{name}: parts were made from different versions" for name in different]
    detail = f"materialise tiger_checkpoint and what follows; {'; '.join(faults)}" if faults else None
    measured = f"{len(unknown)} parts of unknown origin, {len(different)} assets in different versions"
    wanted = "0 parts of unknown origin, 0 assets in different versions"
    return check_result(not faults, measured, wanted, detail=detail)


@gate(model_release, "user_histories")
def not_worse_than_current(
    model_release: Path, user_histories: pl.DataFrame, release: ReleaseRule, work: WorkFolders
) -> dg.AssetCheckResult:
    """On the same users' validation items, the release is not worse than the served one and the best one before it.

    A loss up to `release.margin` is allowed. The check also fails if the interval is too wide to tell, until a person
    sets `release.accept_undecided`. The release may replace only the release that it was compared with.
    """
    from genrec_core.evaluation.release_comparison import judge

    root = work.storage
    served = served_pointer(root)
    noted = {CHAMPION: served.version if served else NOTHING_SERVED, RULE: release.rule}
    if served is None:
        return skipped("no release is served yet", noted)
    if release.rule == "always":
        return skipped("release.rule is always", noted)
    champion = version_folder(RELEASES, served.version, root) / MODEL
    models, damaged = compared_models(served, root)
    comparison = judge(measured_in(model_release), models, user_histories, release, champion)
    reasons = comparison.held_back_by(release)
    wanted = f"no loss of more than {release.margin:.1%} within an interval"
    if release.rule == "better":
        wanted += ", and a gain over the served release, with an interval above 0"
    detail = f"{served.version} stays: {'; '.join(reasons)}" if reasons else None
    measured = "; ".join(f"against {version} {_differences(of)}" for version, of in comparison.compared.items())
    metadata: dict[str, str | dg.MetadataValue] = {**noted, "metrics": table(_rows(comparison, release.margin))}
    if not_opened := damaged | comparison.not_opened:
        metadata["not_opened"] = dg.MetadataValue.json(not_opened)
    return check_result(not reasons, measured, wanted, detail=detail, metadata=metadata)


@warning(served_release)
def alias_agrees(served_release: Path, work: WorkFolders) -> dg.AssetCheckResult:
    """MLflow's alias names the release that is served."""
    from mlflow.exceptions import MlflowException

    from genrec_dagster.experiment import release_of_alias

    version = read_pointer(served_release).version
    try:
        named = release_of_alias(version_folder(RELEASES, version, work.storage) / CHECKPOINT)
    except (MlflowException, OSError) as error:
        return check_result(False, "no answer", version, severity=WARN, detail=f"MLflow says: {error}")
    return check_result(named == version, named or "another model", version, severity=WARN)


def _gate_row(instance: dg.DagsterInstance, spec: dg.AssetCheckSpec, origins: list[Origin]) -> Row:
    """One gate of the table: passed, failed, or not run on any of ``origins``."""
    evaluation = evaluation_of(instance, spec.key, origins)
    result = "not run on this version" if evaluation is None else "passed" if evaluation.passed else "failed"
    description = (evaluation.description if evaluation else None) or ""
    return {"asset": spec.asset_key.to_user_string(), "gate": spec.name, "result": result, "description": description}


def _differences(comparison: "Comparison") -> str:
    from genrec_core.evaluation.metrics import JUDGED

    parts = []
    for name in JUDGED:
        of = comparison.differences[name]
        parts.append(f"{name} {of['difference']:+.4f} ({of['low']:+.4f} to {of['high']:+.4f})")
    return f"{', '.join(parts)} on {comparison.users} users"


def _rows(comparison: "Judgement", margin: float) -> list[Row]:
    return [
        {
            "against": version,
            "outcome": challenge.outcome(margin),
            "metric": name,
            "champion": challenge.champion[name],
            "challenger": challenge.challenger[name],
            **difference,
        }
        for version, challenge in comparison.compared.items()
        for name, difference in challenge.differences.items()
    ]
