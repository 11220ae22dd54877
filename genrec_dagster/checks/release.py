"""May a release be served: its gates on exactly what it holds, its parts' common origin, the release served so far."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import CHECKPOINT, FACTS, MODEL, RELEASES, Pointer, read_pointer, served_pointer
from genrec_core.releases.transfer import best_trained
from genrec_core.storage.artifacts import read_json
from genrec_core.storage.folders import all_versions, version_folder
from genrec_dagster.assets.release import CHAMPION, NOTHING_SERVED, RULE, model_release, served_release
from genrec_dagster.checks import catalog, model
from genrec_dagster.checks.verdict import verdict
from genrec_dagster.config import ReleaseRule
from genrec_dagster.failures import reasons_in_results
from genrec_dagster.lineage import Origin, conflicts, evaluation_of, trace
from genrec_dagster.metadata import Row, table
from genrec_dagster.resources import WorkFolders

if TYPE_CHECKING:
    from genrec_core.evaluation.release_comparison import Comparison, Judgement

_EARLIER = 5  # releases served before that a new one is compared with
_HISTORIES = {"user_histories": dg.AssetIn("user_histories")}
GATES = [spec for check in (*catalog.CHECKS, *model.CHECKS) for spec in check.check_specs if spec.blocking]


@dg.asset_check(asset=model_release, blocking=True)
@reasons_in_results
def gates_passed(context: dg.AssetCheckExecutionContext, model_release: Path) -> dg.AssetCheckResult:
    """Every blocking check upstream passed, and looked at what this release was made from, not at a newer version."""
    traced = trace(context.instance, read_json(model_release / FACTS)["parts"])
    rows = [_gate(context.instance, spec, traced.get(spec.asset_key.to_user_string(), [])) for spec in GATES]
    open_gates = [f"{row['asset']} {row['gate']}: {row['result']}" for row in rows if row["result"] != "passed"]
    detail = f"run the checks of that asset, or materialise it again; {'; '.join(open_gates)}" if open_gates else None
    measured = f"{len(rows) - len(open_gates)} gates passed"
    result = verdict(not open_gates, measured, f"{len(rows)} gates passed", detail=detail)
    return result._replace(metadata={**result.metadata, "gates": table(rows)})


@dg.asset_check(asset=model_release, blocking=True)
@reasons_in_results
def parts_belong_together(context: dg.AssetCheckExecutionContext, model_release: Path) -> dg.AssetCheckResult:
    """Checkpoint, IDs, metrics and export were made from one another, and from one state of the data."""
    parts = read_json(model_release / FACTS)["parts"]
    traced = trace(context.instance, parts)
    unknown = sorted(set(parts) - set(traced))
    different = conflicts(context.instance, traced, parts)
    detail = None
    if unknown or different:
        named = [*(f"{name}: not materialised in this Dagster instance" for name in unknown)]
        named += [f"{name}: parts were made from different versions" for name in different]
        detail = f"materialise tiger_checkpoint and what follows; {'; '.join(named)}"
    measured = f"{len(unknown)} parts of unknown origin, {len(different)} assets in different versions"
    return verdict(not unknown and not different, measured, "0 and 0", detail=detail)


@dg.asset_check(asset=model_release, blocking=True, additional_ins=_HISTORIES)
@reasons_in_results
def not_worse_than_current(
    model_release: Path, user_histories: pl.DataFrame, release: ReleaseRule, work: WorkFolders
) -> dg.AssetCheckResult:
    """On the same users' validation items, the release loses at most a margin to the served one and the best before it.

    It fails too where the interval is too wide to tell, until a person sets `release.accept_undecided`. The release may
    replace only the one that it was compared with.
    """
    from genrec_core.evaluation.release_comparison import judge

    root = Path(work.root).absolute()
    served = served_pointer(root)
    noted = {CHAMPION: served.version if served else NOTHING_SERVED, RULE: release.rule}
    if release.rule == "always" or served is None:
        why = "release.rule is always" if served else "nothing is served yet"
        return verdict(True, f"no comparison, as {why}", "none", numbers=noted)
    models, damaged = _served_models(served, root)
    found = judge(model_release / MODEL, models, user_histories, release)
    held_back = found.held_back_by(release)
    wanted = f"no loss of more than {release.margin:.1%} within an interval"
    if release.rule == "better":
        wanted += ", and one against the served release above 0"
    detail = f"{served.version} stays: {'; '.join(held_back)}" if held_back else None
    measured = "; ".join(f"against {version} {_differences(of)}" for version, of in found.compared.items())
    result = verdict(not held_back, measured, wanted, detail=detail, numbers=noted)
    shown: dict[str, dg.MetadataValue] = {"metrics": table(_rows(found, release.margin))}
    if not_opened := damaged | found.not_opened:
        shown["not_opened"] = dg.MetadataValue.json(not_opened)
    return result._replace(metadata={**result.metadata, **shown})


@dg.asset_check(asset=served_release)
@reasons_in_results
def alias_agrees(served_release: Path, work: WorkFolders) -> dg.AssetCheckResult:
    """MLflow's alias names the release that is served."""
    from mlflow.exceptions import MlflowException

    from genrec_dagster.registry import release_of_alias

    version = read_pointer(served_release).version
    try:
        named = release_of_alias(version_folder(RELEASES, version, Path(work.root).absolute()) / CHECKPOINT)
    except (MlflowException, OSError) as error:
        return verdict(False, "no answer", version, severity=dg.AssetCheckSeverity.WARN, detail=f"MLflow says: {error}")
    return verdict(named == version, named or "another model", version, severity=dg.AssetCheckSeverity.WARN)


def _gate(instance: dg.DagsterInstance, spec: dg.AssetCheckSpec, origins: list[Origin]) -> Row:
    """One gate of the table: passed, failed, or not run on any of ``origins``."""
    evaluation = evaluation_of(instance, spec.key, origins)
    result = "not run on this version" if evaluation is None else "passed" if evaluation.passed else "failed"
    said = (evaluation.description if evaluation else None) or ""
    return {"asset": spec.asset_key.to_user_string(), "gate": spec.name, "result": result, "said": said}


def _served_models(served: Pointer, root: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Models by version: the served release's first, then of the newest before it, and of the best in its training.

    Also why an earlier one of them cannot be fetched, by version. Not all that were ever served: each is opened, and
    ranks for the users of the comparison.
    """
    there = {held.version for held in all_versions(RELEASES, root) if held.whole}
    before = [version for version in served.known if version != served.version and version in there]
    models, damaged = {served.version: version_folder(RELEASES, served.version, root) / MODEL}, dict[str, str]()
    for version in dict.fromkeys([*before[-_EARLIER:], *best_trained(before, root)]):
        try:
            models[version] = version_folder(RELEASES, version, root) / MODEL
        except GenrecError as error:
            damaged[version] = str(error)
    return models, damaged


def _differences(found: "Comparison") -> str:
    from genrec_core.evaluation.metrics import JUDGED

    shown = {name: found.differences[name] for name in JUDGED}
    parts = [f"{name} {d['difference']:+.4f} ({d['low']:+.4f} to {d['high']:+.4f})" for name, d in shown.items()]
    return f"{', '.join(parts)} on {found.users} users"


def _rows(found: "Judgement", margin: float) -> list[Row]:
    return [
        {
            "against": version,
            "outcome": of.outcome(margin),
            "metric": name,
            "champion": of.champion[name],
            "challenger": of.challenger[name],
            **difference,
        }
        for version, of in found.compared.items()
        for name, difference in of.differences.items()
    ]


CHECKS = [gates_passed, parts_belong_together, not_worse_than_current, alias_agrees]
