"""The pages of releases and of the pointer to the one that is served."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from genrec_core.evaluation.evaluate import METRICS_FILE
from genrec_core.releases.pointer import FACTS, METRICS, RELEASES, Pointer
from genrec_core.storage.artifacts import read_json
from genrec_core.storage.folders import version_folder
from genrec_dagster.lineage import Origin
from genrec_dagster.metadata import Page, Row, table

_HEADLINE = ("recall@10", "ndcg@10")
_COMPARED = ("recall@10", "ndcg@10", "recall@100", "recall@1000")


def release_page(
    folder: Path, facts: Mapping[str, Any], traced: Mapping[str, list[Origin]], champion: Path | None
) -> Page:
    """What a release holds, from what it was made, and its test metrics beside those of the one that is served.

    Args:
        folder: the release.
        facts: the content of its ``release.json``.
        traced: what its parts were made from.
        champion: the release that is served; None where there is none.
    """
    parts: list[Row] = [
        {"part": part.name, "files": len(files), "bytes": sum(file.stat().st_size for file in files)}
        for part in sorted(folder.iterdir())
        if part.is_dir()
        for files in [[file for file in part.rglob("*") if file.is_file()]]
    ]
    return {
        **{name: dg.MetadataValue.float(value) for name, value in headline(folder / METRICS).items()},
        "beside_the_served_one": table(_compared(folder, champion)),
        "parts": table(parts),
        "made_from": table(_origins(traced)),
        "mlflow_version": dg.MetadataValue.text(_registered_as(facts["mlflow"])),
        "code": dg.MetadataValue.text(facts["code"]),
        "settings": dg.MetadataValue.json(facts["settings"]),
    }


def served_page(pointer: Pointer, before: Pointer | None, root: Path, carried: int, alias: str) -> Page:
    """What is served since when and why, and every release that ever was."""
    release = version_folder(RELEASES, pointer.version, root)
    return {
        "release": dg.MetadataValue.text(pointer.version),
        "before": dg.MetadataValue.text(before.version if before else "none"),
        "reason": dg.MetadataValue.text(pointer.reason),
        **{name: dg.MetadataValue.float(value) for name, value in headline(release / METRICS).items()},
        "releases": table([_release_row(version, pointer, root) for version in reversed(pointer.known)]),
        "withdrawn_items_carried_over": dg.MetadataValue.int(carried),
        "alias": dg.MetadataValue.text(alias),
    }


def _registered_as(noted: Mapping[str, str | None]) -> str:
    return f"models:/{noted['model']}/{noted['version']}" if noted["version"] else "not registered"


def headline(metrics: Path) -> dict[str, float]:
    """Test metrics of the ranking that is served."""
    found = read_json(metrics / METRICS_FILE)
    return {name: value for name, value in found[found["ranking"]].items() if name in _HEADLINE}


def _compared(folder: Path, champion: Path | None) -> list[Row]:
    """One row a metric of the ranking that each serves."""
    found = [_served_metrics(release) if release else {} for release in (folder, champion)]
    return [
        {
            "test metric": name,
            "this release": found[0][name],
            "served": found[1].get(name),
            "difference": found[0][name] - found[1][name] if name in found[1] else None,
        }
        for name in _COMPARED
        if name in found[0]
    ]


def _served_metrics(release: Path) -> dict[str, float]:
    metrics = read_json(release / METRICS / METRICS_FILE)
    return {name: value for name, value in metrics[metrics["ranking"]].items() if isinstance(value, float)}


def _release_row(version: str, pointer: Pointer, root: Path) -> Row:
    """One release of the history; of one that is not on this machine only the name is known."""
    state = "served" if version == pointer.version else "earlier" if version in pointer.before else "taken back"
    release = root / RELEASES / version  # not fetched where the storage is a bucket: a release is large
    here = (release / FACTS).is_file()
    made, metrics = (read_json(release / FACTS)["created"], headline(release / METRICS)) if here else (None, {})
    return {"release": version, "state": state, "made": made, **{name: metrics.get(name) for name in _HEADLINE}}


def _origins(traced: Mapping[str, list[Origin]]) -> list[Row]:
    rows: list[Row] = [
        {"asset": name, "run": origin.run_id, "data_version": origin.data_version}
        for name, origins in sorted(traced.items())
        for origin in origins
    ]
    return rows or [{"asset": "unknown to this Dagster instance", "run": "", "data_version": ""}]
