"""Releases: one immutable version of all that serving needs, and the pointer to the one that is served."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from genrec_core.errors import GenrecError
from genrec_core.evaluation.evaluate import METRICS_FILE
from genrec_core.monitoring.drift import write_profile
from genrec_core.releases.pointer import (
    CHECKPOINT,
    FACTS,
    MEASURED,
    METRICS,
    MODEL,
    RELEASES,
    SEMANTIC_IDS,
    Pointer,
    first_pointer,
    require_served,
    served_in,
    served_pointer,
    withdrawn_too,
    write_pointer,
    write_release,
)
from genrec_core.storage.artifacts import MANIFEST, read_json, verify_manifest
from genrec_core.storage.folders import latest, version_folder
from genrec_dagster import experiment
from genrec_dagster.assets.model import HISTORY_FILE
from genrec_dagster.automation import FRESHNESS, fresh_within, rebuilt_asset
from genrec_dagster.config import PRESET_NAME, ServedReleaseForm
from genrec_dagster.failures import plain_failures
from genrec_dagster.metadata import Page, Row, content_version, page, table
from genrec_dagster.origins import Origin, evaluation_of, trace
from genrec_dagster.resources import WorkFolders, dagster_ui
from genrec_dagster.training import code_revision

# Gates of `model_release` that must have passed before the release is served; checks/release.py defines them.
COMPARISON = "not_worse_than_current"
RELEASE_GATES = ("gates_passed", "parts_belong_together", COMPARISON)
CHAMPION, RULE, NOTHING_SERVED = "champion", "rule", "none"  # metadata of the comparison: with what, by what rule
_NEWEST, _PREVIOUS = "newest", "previous"
_HEADLINE = ("recall@10", "ndcg@10")
_COMPARED = ("recall@10", "ndcg@10", "recall@100", "recall@1000")
# The folder of a release that holds each asset.
_FOLDERS = {
    "tiger_checkpoint": CHECKPOINT,
    "semantic_ids": SEMANTIC_IDS,
    "recall_metrics": METRICS,
    "onnx_encoder": MODEL,
}


@rebuilt_asset("model", kinds={"onnx", "mlflow"}, code_version="2")
@plain_failures
def model_release(
    context: dg.AssetExecutionContext,
    tiger_checkpoint: Path,
    semantic_ids: Path,
    recall_metrics: Path,
    onnx_encoder: Path,
    user_histories: pl.DataFrame,
    work: WorkFolders,
) -> dg.MaterializeResult[Path]:
    """One version of checkpoint, semantic IDs, exported model and metrics, registered in MLflow. It never changes.

    It is served only if all gates upstream passed on exactly these parts, and if it is not worse than the release that
    is served now.
    """
    parts = {
        "tiger_checkpoint": tiger_checkpoint,
        "semantic_ids": semantic_ids,
        "recall_metrics": recall_metrics,
        "onnx_encoder": onnx_encoder,
    }
    run, code, served = context.run.run_id, code_revision(), served_in(onnx_encoder)
    registered: str | None = None
    with experiment.mlflow_may_be_away(context):
        example, (scores, about) = user_histories["item_ids"][0].to_list(), _scores(recall_metrics, run)
        tags = {"dagster_run": run, "code": code, **scores}
        registered = experiment.register_release(tiger_checkpoint, served, run, example, tags, about)
    origins = trace(context.instance, {name: part.name for name, part in parts.items()})
    facts = _facts(run, code, registered, parts, origins)
    folders = {_FOLDERS[name]: part for name, part in parts.items()} | {MODEL: served}
    if (onnx_encoder / MEASURED).is_dir():
        folders[MEASURED] = onnx_encoder / MEASURED
    with work.new(context) as folder:
        write_release(folder, folders, facts)
        write_profile(folder, user_histories)
        pointer = served_pointer(work.storage)
        champion = version_folder(RELEASES, pointer.version, work.storage) if pointer else None
        metadata = release_page(folder, facts, champion)
        metadata["mlflow_page"] = experiment.version_link(tiger_checkpoint, registered)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


def _scores(recall_metrics: Path, run: str) -> tuple[dict[str, str], str]:
    """What MLflow shows of a version: tags with test scores, and a text with scores, report and run."""
    from genrec_core.evaluation.pages.metrics import REPORT_FILE

    metrics = read_json(recall_metrics / METRICS_FILE)
    tags = {experiment.metric_name(name): f"{metrics[metrics['ranking']][name]:.4f}" for name in _HEADLINE}
    report = experiment.score_text(metrics, recall_metrics / REPORT_FILE)
    return tags, f"{report} · [Run in Dagster]({dagster_ui()}/runs/{run})"


def _facts(
    version: str, code: str, registered: str | None, parts: Mapping[str, Path], origins: Mapping[str, list[Origin]]
) -> dict[str, Any]:
    """The content of ``release.json``."""
    return {
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code,
        "preset": PRESET_NAME,
        "parts": {name: part.name for name, part in parts.items()},
        "models": _models(parts["onnx_encoder"]),
        "made_from": {
            name: [{"run": origin.run_id, "data_version": origin.data_version} for origin in sources]
            for name, sources in sorted(origins.items())
        },
        "settings": {
            # None if an earlier version of the code trained it, which did not keep its settings.
            "tiger_checkpoint": read_json(parts["tiger_checkpoint"] / HISTORY_FILE).get("settings"),
            "semantic_ids": read_json(parts["semantic_ids"] / "summary.json")["settings"],
            "recall_metrics": read_json(parts["recall_metrics"] / METRICS_FILE)["settings"],
        },
        "mlflow": {"model": experiment.REGISTERED_MODEL, "version": registered},
    }


def _models(export: Path) -> dict[str, str]:
    """Which exported model was measured and which is served, by folder, and what each was trained on."""
    refitted = export / CHECKPOINT
    if not refitted.is_dir():
        return {"measured": MODEL, "served": MODEL, "served_trained_on": "the training part"}
    epochs = read_json(refitted / HISTORY_FILE)["best_epoch"]
    return {"measured": MEASURED, "served": MODEL, "served_trained_on": f"all interactions, {epochs:.0f} epochs"}


@rebuilt_asset(
    "model",
    kinds={"json", "mlflow"},
    code_version="1",
    deps=[model_release],
    freshness_policy=fresh_within(FRESHNESS.release_hours),
)
@plain_failures
def served_release(
    context: dg.AssetExecutionContext, config: ServedReleaseForm, work: WorkFolders
) -> dg.MaterializeResult[Path]:
    """The pointer to the release that predictions and servers use. It moves to a release whose gates passed.

    It can also move back to an earlier release. Rolling back verifies that release's files, but does not repeat its
    gates. If another release is served while this runs, the pointer stays and the run fails. Run it again, so that the
    gates compare with that release.
    """
    root = work.storage
    before = served_pointer(root)
    pointer = _newest(context, before, root) if config.to == _NEWEST else _earlier(before, config, root)
    release = version_folder(RELEASES, pointer.version, root)
    carried = 0
    if before and before.version != pointer.version:
        carried = len(withdrawn_too(version_folder(RELEASES, before.version, root) / MODEL, release / MODEL))
    with work.new(context) as folder:
        write_pointer(folder, pointer)
        require_served(pointer.follows, root)  # MLflow's alias moves only if this pointer will be served
        alias = _move_alias(context, release / CHECKPOINT, pointer.version)
        metadata = served_page(pointer, before, root, carried, alias)
        registered = read_json(release / FACTS)["mlflow"]["version"]
        metadata["mlflow_page"] = experiment.version_link(release / CHECKPOINT, registered)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=pointer_version(release))


def _newest(context: dg.AssetExecutionContext, before: Pointer | None, root: Path) -> Pointer:
    """The pointer to this run's release, or to the newest one if this run made none; its gates must have passed."""
    own = root / RELEASES / context.run.run_id
    release = own if (own / MANIFEST).is_file() else latest(RELEASES, root)
    verify_manifest(release)
    if before and before.version == release.name:  # it may hold added items, and then has no checks of its own
        return before.moved(release.name, before.reason)
    if before and release.name in before.before:  # a release with added items is served, but is not yet "the newest"
        raise GenrecError(
            f"release {release.name} was served before {before.version}; to go back to it, materialise served_release "
            f"with to: {release.name}"
        )
    _require_gates(context.instance, release.name, before)
    reason = "its gates passed"
    return before.moved(release.name, reason) if before else first_pointer(release.name, reason)


def _require_gates(instance: dg.DagsterInstance, release: str, before: Pointer | None) -> None:
    """Refuse a release whose gates did not pass, or which was compared with another release than the served one."""
    origins = trace(instance, {RELEASES: release}).get(RELEASES, [])
    keys = {name: dg.AssetCheckKey(dg.AssetKey(RELEASES), name) for name in RELEASE_GATES}
    evaluations = {name: evaluation_of(instance, key, origins) for name, key in keys.items()}
    failed = [name for name, evaluation in evaluations.items() if evaluation is None or not evaluation.passed]
    if failed:
        raise GenrecError(
            f"release {release} is not served: {', '.join(failed)} did not pass; see the checks of {RELEASES}, or "
            "run them, then materialise served_release again"
        )
    comparison = evaluations[COMPARISON]
    if before is None or comparison is None:
        return
    noted = {name: comparison.metadata[name].value for name in (CHAMPION, RULE) if name in comparison.metadata}
    champion = noted.get(CHAMPION, before.version)  # older evaluations do not name it
    if champion != before.version and noted.get(RULE) != "always":
        raise GenrecError(
            f"release {before.version} is served since the gate compared {release} with {champion}; run the check "
            f"{COMPARISON} again, then materialise served_release"
        )


def _earlier(before: Pointer | None, config: ServedReleaseForm, root: Path) -> Pointer:
    """The pointer to a release that was served before, after its files are verified."""
    if before is None:
        raise GenrecError("no release is served yet, so there is none to go back to")
    to = None if config.to == _PREVIOUS else config.to
    pointer = before.moved_back(to, config.reason or f"rolled back from {before.version}")
    verify_manifest(version_folder(RELEASES, pointer.version, root))
    return pointer


def _move_alias(context: dg.AssetExecutionContext, checkpoint: Path, release: str) -> str:
    """Move MLflow's alias; if MLflow does not answer, the pointer moves all the same."""
    from mlflow.exceptions import MlflowException

    try:
        version = experiment.point_alias(checkpoint, release)
    except (MlflowException, OSError) as error:
        context.log.warning(f"the alias {experiment.ALIAS} of {experiment.REGISTERED_MODEL} was not moved: {error}")
        return f"not moved: {error}"
    return f"models:/{experiment.REGISTERED_MODEL}@{experiment.ALIAS} is version {version}"


def pointer_version(release: Path) -> dg.DataVersion:
    """A hash of the model alone: a release with the same model changes no prediction."""
    return dg.DataVersion(hashlib.sha256(f"served {content_version(release / MODEL).value}".encode()).hexdigest())


def release_page(folder: Path, facts: Mapping[str, Any], champion: Path | None) -> Page:
    """A table that compares the test metrics with those of ``champion``, the served release, and ``release.json``."""
    from genrec_core.evaluation.reading import release_verdict

    name = "recall@10"
    recalls = {
        "this": _test_metrics(folder).get(name),
        "served": _test_metrics(champion).get(name) if champion else None,
    }
    return page(
        release_verdict(recalls, _ranking(folder)),
        {"beside_the_served_one": table(_compared(folder, champion))},
        {**_headline(folder), "trained_on": facts["models"]["served_trained_on"]},
        {"facts": dict(facts)},
    )


def served_page(pointer: Pointer, before: Pointer | None, root: Path, carried: int, alias: str) -> Page:
    """The served release, why it is served, and all releases that were ever served."""
    instead = f" instead of {before.version}" if before and before.version != pointer.version else ""
    return page(
        f"Predictions and servers use release {pointer.version}{instead}: {pointer.reason}.",
        {"releases": table([_release_row(version, pointer, root) for version in reversed(pointer.known)])},
        {**_headline(version_folder(RELEASES, pointer.version, root)), "withdrawn_carried_over": carried},
        {
            "release": pointer.version,
            "previous_release": before.version if before else "none",
            "reason": pointer.reason,
            "alias": alias,
        },
    )


def _test_metrics(release: Path) -> dict[str, float]:
    """The test metrics of the ranking that the release serves."""
    metrics = read_json(release / METRICS / METRICS_FILE)
    return {name: value for name, value in metrics[metrics["ranking"]].items() if isinstance(value, float)}


def _ranking(release: Path) -> str:
    """The ranking that the release serves."""
    return str(read_json(release / METRICS / METRICS_FILE)["ranking"])


def _headline(release: Path) -> dict[str, float]:
    """The main test metrics, each named by its ranking."""
    ranking = _ranking(release)
    return {f"{ranking}_{name}": value for name, value in _test_metrics(release).items() if name in _HEADLINE}


def _compared(folder: Path, champion: Path | None) -> list[Row]:
    """One row for each metric, of the ranking that each release serves."""
    own, served = _test_metrics(folder), _test_metrics(champion) if champion else {}
    return [
        {
            "test metric": name,
            "this release": own[name],
            "served": served.get(name),
            "difference": own[name] - served[name] if name in served else None,
        }
        for name in _COMPARED
        if name in own
    ]


def _release_row(version: str, pointer: Pointer, root: Path) -> Row:
    """One release of the history. Only the name is known if the release is not on this machine."""
    state = "served" if version == pointer.version else "earlier" if version in pointer.before else "taken back"
    release = root / RELEASES / version  # not fetched from a bucket: a release is large
    row: dict[str, str | float | None] = {"release": version, "state": state, "made (UTC)": None}
    row |= dict.fromkeys(_HEADLINE)
    if (release / FACTS).is_file():
        measured = {name: value for name, value in _test_metrics(release).items() if name in _HEADLINE}
        made = datetime.fromisoformat(read_json(release / FACTS)["created"]).astimezone(UTC)
        row |= {"made (UTC)": f"{made:%Y-%m-%d %H:%M}", **measured}
    return row
