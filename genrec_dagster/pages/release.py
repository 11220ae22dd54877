"""The metadata of releases and of the pointer to the served one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrec_core.evaluation.evaluate import METRICS_FILE
from genrec_core.releases.pointer import FACTS, METRICS, RELEASES, Pointer
from genrec_core.storage.artifacts import read_json
from genrec_core.storage.folders import version_folder
from genrec_dagster.metadata import Page, Row, table

_HEADLINE = ("recall@10", "ndcg@10")
_COMPARED = ("recall@10", "ndcg@10", "recall@100", "recall@1000")


def release_page(folder: Path, facts: Mapping[str, Any], champion: Path | None) -> Page:
    """The content of ``release.json``, and the test metrics beside those of ``champion``, the served release."""
    registered = facts["mlflow"]
    address = f"models:/{registered['model']}/{registered['version']}" if registered["version"] else "not registered"
    return {
        **_headline(folder),
        "beside_the_served_one": table(_compared(folder, champion)),
        "mlflow_version": address,
        "code": facts["code"],
        "settings": facts["settings"],
        "made_from": facts["made_from"],
    }


def served_page(pointer: Pointer, before: Pointer | None, root: Path, carried: int, alias: str) -> Page:
    """The served release, why it is served, and all releases that were ever served."""
    return {
        "release": pointer.version,
        "previous_release": before.version if before else "none",
        "reason": pointer.reason,
        **_headline(version_folder(RELEASES, pointer.version, root)),
        "releases": table([_release_row(version, pointer, root) for version in reversed(pointer.known)]),
        "withdrawn_items_carried_over": carried,
        "alias": alias,
    }


def _test_metrics(release: Path) -> dict[str, float]:
    """The test metrics of the ranking that the release serves."""
    metrics = read_json(release / METRICS / METRICS_FILE)
    return {name: value for name, value in metrics[metrics["ranking"]].items() if isinstance(value, float)}


def _headline(release: Path) -> dict[str, float]:
    return {name: value for name, value in _test_metrics(release).items() if name in _HEADLINE}


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
    row: dict[str, str | float | None] = {"release": version, "state": state, "made": None}
    row |= dict.fromkeys(_HEADLINE)
    if (release / FACTS).is_file():
        row |= {"made": read_json(release / FACTS)["created"], **_headline(release)}
    return row
