"""Codes in the graph: with `refit: never` no damage to the version so far makes all codes new."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from genrec_core.storage.artifacts import MANIFEST
from genrec_core.storage.folders import LATEST, latest

if TYPE_CHECKING:
    from conftest import Place


def materialize(place: "Place", refit: str) -> dg.ExecuteInProcessResult:
    job = dg.define_asset_job("ids", selection=dg.AssetSelection.assets("semantic_ids").without_checks())
    definitions = dg.Definitions.merge(place.definitions(), dg.Definitions(jobs=[job]))
    return definitions.resolve_job_def("ids").execute_in_process(
        run_config={
            "ops": {"semantic_ids": {"config": {"levels": 2, "codebook_size": 8, "refit": refit}}},
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        instance=place.instance,
        raise_on_error=False,
    )


def refitted(result: dg.ExecuteInProcessResult) -> object:
    (event,) = result.get_asset_materialization_events()
    return event.materialization.metadata["refitted"].value


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: (folder / "codes.npy").write_bytes(b"half"), "codes.npy: differs from the sha256"),
        (lambda folder: (folder / "codes.npy").unlink(), "codes.npy: listed in manifest.json but missing"),
        (lambda folder: (folder / MANIFEST).unlink(), "no manifest.json, so it was never finished"),
        (lambda folder: (folder.parent / LATEST).unlink(), "semantic_ids was never built: no"),
        (lambda folder: (folder.parent / LATEST).write_text('{"version": "gone"}'), "names gone, but"),
    ],
)
def test_a_damaged_version_is_refused_with_never_and_fitted_again_with_auto(
    place: "Place", damage: Callable[[Path], object], why: str
) -> None:
    damage(latest("semantic_ids", place.storage))
    refused = materialize(place, "never")
    assert not refused.success
    error = str(refused.failure_data_for_node("semantic_ids").error)
    assert "semantic_ids.refit is never, but the codes so far cannot be kept" in error
    assert why in error
    assert "set semantic_ids.refit to auto" in error
    assert refitted(materialize(place, "auto")) == "there were none yet"


def test_a_whole_version_is_kept_with_never(place: "Place") -> None:
    assert refitted(materialize(place, "never")) == "no"


def test_the_first_version_is_built_with_never(place: "Place") -> None:
    for version in (place.storage / "semantic_ids").iterdir():
        version.rename(place.folder / version.name)
    assert refitted(materialize(place, "never")) == "there were none yet"
