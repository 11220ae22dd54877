"""Releases: one immutable version of all that serving needs, and the pointer to the one that is served."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from genrec_core.errors import GenrecError
from genrec_core.evaluation.evaluate import METRICS_FILE
from genrec_core.monitoring.profile import write_profile
from genrec_core.releases.pointer import (
    CHECKPOINT,
    FACTS,
    METRICS,
    MODEL,
    RELEASES,
    SEMANTIC_IDS,
    Pointer,
    first_pointer,
    require_served,
    served_pointer,
    withdrawn_too,
    write_pointer,
    write_release,
)
from genrec_core.storage.artifacts import MANIFEST, read_json, verify_manifest
from genrec_core.storage.folders import latest, version_folder
from genrec_dagster.automation import when_inputs_change
from genrec_dagster.config import PRESET_NAME, ServedReleaseForm
from genrec_dagster.failures import plain_failures
from genrec_dagster.freshness import FRESHNESS, fresh_within
from genrec_dagster.io_manager import FRAME
from genrec_dagster.lineage import Origin, evaluation_of, trace
from genrec_dagster.links import version_link
from genrec_dagster.metadata import content_version
from genrec_dagster.pages.model import HISTORY_FILE
from genrec_dagster.pages.release import release_page, served_page
from genrec_dagster.registry import ALIAS, REGISTERED_MODEL, point_alias, register_release
from genrec_dagster.resources import WorkFolders
from genrec_dagster.training import code_revision

GROUP, OWNERS = "model", ["team:recsys"]
# Blocking checks of `model_release`, which its pointer asks for by name; checks/release.py defines them.
COMPARISON = "not_worse_than_current"
RELEASE_GATES = ("gates_passed", "parts_belong_together", COMPARISON)
CHAMPION, RULE, NOTHING_SERVED = "champion", "rule", "none"  # of the comparison: with what, by what rule
_NEWEST, _PREVIOUS = "newest", "previous"


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"onnx", "mlflow"},
    code_version="2",
    automation_condition=when_inputs_change(),
)
@plain_failures
def model_release(
    context: dg.AssetExecutionContext,
    tiger_checkpoint: Path,
    semantic_ids: Path,
    recall_metrics: Path,
    onnx_encoder: Path,
    user_histories: Path,
    work: WorkFolders,
) -> dg.MaterializeResult[Path]:
    """Checkpoint, semantic IDs, exported model and metrics as one version that never changes, registered in MLflow.

    Its gates decide whether it is served: every gate upstream passed on exactly these parts, and it is not worse than
    the release that is served.
    """
    made = {
        "tiger_checkpoint": tiger_checkpoint,
        "semantic_ids": semantic_ids,
        "recall_metrics": recall_metrics,
        "onnx_encoder": onnx_encoder,
    }
    version, traced = context.run.run_id, trace(context.instance, {name: part.name for name, part in made.items()})
    histories = pl.read_parquet(user_histories / FRAME)
    tags = {"dagster_run": version, "code": code_revision()}
    registered = _register(context, tiger_checkpoint, onnx_encoder, histories["item_ids"][0].to_list(), tags)
    facts: dict[str, Any] = {
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_revision(),
        "preset": PRESET_NAME,
        "parts": {name: part.name for name, part in made.items()},
        "made_from": {name: _described(origins) for name, origins in sorted(traced.items())},
        "settings": _settings(tiger_checkpoint, semantic_ids, recall_metrics),
        "mlflow": {"model": REGISTERED_MODEL, "version": registered},
    }
    parts = {
        CHECKPOINT: tiger_checkpoint,
        SEMANTIC_IDS: semantic_ids,
        METRICS: recall_metrics,
        MODEL: onnx_encoder,
    }
    with work.new(context) as folder:
        write_release(folder, parts, facts)
        write_profile(folder, histories)
        metadata = release_page(folder, facts, traced, _champion(Path(work.root).absolute()))
        metadata["mlflow_page"] = version_link(tiger_checkpoint, REGISTERED_MODEL, registered)
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=content_version(folder))


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"json", "mlflow"},
    code_version="1",
    deps=[model_release],
    freshness_policy=fresh_within(FRESHNESS.release_hours),
    automation_condition=when_inputs_change(),
)
@plain_failures
def served_release(
    context: dg.AssetExecutionContext, config: ServedReleaseForm, work: WorkFolders
) -> dg.MaterializeResult[Path]:
    """The pointer that predictions and servers read; it moves to a release whose gates passed, or back to an old one.

    A release that is gone to again is verified, but not judged again: it was served before. If another release is
    served while this runs, the pointer stays and the run fails: run it again, so that the gates compare with that one.
    """
    root = Path(work.root).absolute()
    before = served_pointer(root)
    pointer = _newest(context, before, root) if config.to == _NEWEST else _earlier(before, config, root)
    release = version_folder(RELEASES, pointer.version, root)
    carried = 0
    if before and before.version != pointer.version:
        carried = len(withdrawn_too(version_folder(RELEASES, before.version, root) / MODEL, release / MODEL))
    with work.new(context) as folder:
        write_pointer(folder, pointer)
        require_served(pointer.follows, root)  # MLflow's alias follows only what will be served
        alias = _move_alias(context, release / CHECKPOINT, pointer.version)
        metadata = served_page(pointer, before, root, carried, alias)
        registered = read_json(release / FACTS)["mlflow"]
        metadata["mlflow_page"] = version_link(release / CHECKPOINT, registered["model"], registered["version"])
        return dg.MaterializeResult(value=folder, metadata=metadata, data_version=pointer_version(release))


def _register(
    context: dg.AssetExecutionContext, checkpoint: Path, model_dir: Path, example: list[int], tags: dict[str, str]
) -> str | None:
    """Add the release to MLflow's registry; None where that does not answer, which must keep nobody from releasing."""
    from mlflow.exceptions import MlflowException

    try:
        return register_release(checkpoint, model_dir, context.run.run_id, example, tags)
    except (MlflowException, OSError) as error:
        context.log.warning(f"the release is not registered in MLflow as {REGISTERED_MODEL}: {error}")
        return None


def _champion(root: Path) -> Path | None:
    """The release that is served, if there is one."""
    pointer = served_pointer(root)
    return version_folder(RELEASES, pointer.version, root) if pointer else None


def _newest(context: dg.AssetExecutionContext, before: Pointer | None, root: Path) -> Pointer:
    """The pointer on the release of this run where it made one, else on the newest; its gates must have passed."""
    own = root / RELEASES / context.run.run_id
    release = own if (own / MANIFEST).is_file() else latest(RELEASES, root)
    verify_manifest(release)
    if before and before.version == release.name:  # a successor by added items has no checks of its own
        return before.moved(release.name, before.reason)
    if before and release.name in before.before:  # the newest by name alone, where adding items to it was cut off
        raise GenrecError(
            f"release {release.name} was served before {before.version}; to go back to it, materialise served_release "
            f"with to: {release.name}"
        )
    origins = trace(context.instance, {RELEASES: release.name}).get(RELEASES, [])
    said = {name: _said_by(context.instance, name, origins) for name in RELEASE_GATES}
    failed = [name for name, evaluation in said.items() if evaluation is None or not evaluation.passed]
    if failed:
        raise GenrecError(
            f"release {release.name} is not served: {', '.join(failed)} did not pass; see the checks of {RELEASES}, or "
            "run them, then materialise served_release again"
        )
    if before and (comparison := said[COMPARISON]):
        _require_compared(release.name, before.version, comparison)
    reason = "its gates passed"
    return before.moved(release.name, reason) if before else first_pointer(release.name, reason)


def _said_by(instance: dg.DagsterInstance, check: str, origins: list[Origin]) -> dg.AssetCheckEvaluation | None:
    return evaluation_of(instance, dg.AssetCheckKey(dg.AssetKey(RELEASES), check), origins)


def _require_compared(release: str, served: str, comparison: dg.AssetCheckEvaluation) -> None:
    """Refuse to replace a release that was served after the comparison, unless its rule asked for none."""
    noted = {name: comparison.metadata[name].value for name in (CHAMPION, RULE) if name in comparison.metadata}
    champion = noted.get(CHAMPION, served)  # older evaluations without a comparison name none
    if champion != served and noted.get(RULE) != "always":
        raise GenrecError(
            f"release {served} is served since the gate compared {release} with {champion}; run the check {COMPARISON} "
            "again, then materialise served_release"
        )


def _earlier(before: Pointer | None, config: ServedReleaseForm, root: Path) -> Pointer:
    """The pointer on a release that was served before, once its files are verified."""
    if before is None:
        raise GenrecError("no release is served yet, so there is none to go back to")
    to = None if config.to == _PREVIOUS else config.to
    pointer = before.moved_back(to, config.reason or f"rolled back from {before.version}")
    verify_manifest(version_folder(RELEASES, pointer.version, root))
    return pointer


def _move_alias(context: dg.AssetExecutionContext, checkpoint: Path, release: str) -> str:
    """Move MLflow's alias; a registry that does not answer must not keep a bad release in service."""
    from mlflow.exceptions import MlflowException

    try:
        version = point_alias(checkpoint, release)
    except (MlflowException, OSError) as error:
        context.log.warning(f"the alias {ALIAS} of {REGISTERED_MODEL} was not moved: {error}")
        return f"not moved: {error}"
    return f"models:/{REGISTERED_MODEL}@{ALIAS} is version {version}"


def pointer_version(release: Path) -> dg.DataVersion:
    """A hash of the model alone: a release of the same content changes no prediction."""
    return dg.DataVersion(hashlib.sha256(f"served {content_version(release / MODEL).value}".encode()).hexdigest())


def _described(origins: list[Origin]) -> list[dict[str, Any]]:
    return [{"run": origin.run_id, "data_version": origin.data_version} for origin in origins]


def _settings(checkpoint: Path, ids: Path, metrics: Path) -> dict[str, Any]:
    """With what each part was made, all values, not only those that were given."""
    return {
        # None where an earlier version of the code trained it, which did not keep its settings.
        "tiger_checkpoint": read_json(checkpoint / HISTORY_FILE).get("settings"),
        "semantic_ids": read_json(ids / "summary.json")["settings"],
        "recall_metrics": read_json(metrics / METRICS_FILE)["settings"],
    }
