"""What a user can mend is told in one sentence, in a failed step and in a failed check."""

from pathlib import Path

import dagster as dg
import pytest

from genrec_core.errors import GenrecError
from genrec_dagster.assets.requests import request_file, request_predictions
from genrec_dagster.definitions import defs
from genrec_dagster.failures import PlainFailureError, failure_reason, plain_failures, reasons_in_results
from genrec_dagster.io_manager import ArtifactStorage

SENTENCE = "soap.txt line 3: no price; add one"


@dg.asset
@plain_failures
def soap(context: dg.AssetExecutionContext) -> dg.MaterializeResult[dict]:
    raise GenrecError(SENTENCE)


def failure_event(result: dg.ExecuteInProcessResult) -> dg.DagsterEvent:
    return next(event for event in result.all_events if event.is_step_failure)


def test_a_failed_step_shows_its_sentence_and_no_stack(capfd: pytest.CaptureFixture[str]) -> None:
    result = dg.materialize([soap], raise_on_error=False)
    data = failure_event(result).step_failure_data
    assert data.user_failure_data.description == SENTENCE
    assert data.error_display_string.strip() == SENTENCE
    assert failure_reason(failure_event(result)) == SENTENCE
    said = capfd.readouterr().err
    assert SENTENCE in said
    assert "Stack Trace" not in said
    assert 'File "' not in said


def test_a_mistake_of_the_program_keeps_its_stack() -> None:
    @dg.asset
    @plain_failures
    def broken() -> int:
        raise KeyError("price")

    data = failure_event(dg.materialize([broken], raise_on_error=False)).step_failure_data
    assert "test_failures.py" in data.error_display_string


def test_a_failure_that_has_fields_of_its_own_keeps_them() -> None:
    @dg.asset
    @plain_failures
    def letter() -> int:
        raise PlainFailureError("no request in it", {"file": "letter.txt"})

    data = failure_event(dg.materialize([letter], raise_on_error=False)).step_failure_data
    assert data.user_failure_data.metadata == {"file": dg.MetadataValue.text("letter.txt")}


def test_an_input_that_was_never_built_is_told_without_a_stack(tmp_path: Path) -> None:
    before = dg.AssetSpec("before")

    @dg.asset
    def after(before: dict) -> None: ...

    resources = {"io_manager": ArtifactStorage(root=str(tmp_path))}
    result = dg.materialize([after, before], resources=resources, raise_on_error=False)
    shown = failure_event(result).step_failure_data.error_display_string.strip()
    assert shown.endswith("materialise before first")
    assert "\n" not in shown


def test_a_check_that_cannot_look_has_failed_and_says_why() -> None:
    @dg.asset
    def shelf() -> None: ...

    @dg.asset
    def bottle(shelf: None) -> None: ...

    @dg.asset_check(asset=shelf, blocking=True)
    @reasons_in_results
    def full() -> dg.AssetCheckResult:
        raise GenrecError(SENTENCE)

    result = dg.Definitions([shelf, bottle], asset_checks=[full], jobs=[dg.define_asset_job("both")]).resolve_job_def(
        "both"
    )
    done = result.execute_in_process(raise_on_error=False)
    (evaluation,) = done.get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.description == SENTENCE
    assert evaluation.metadata["reason"].value == SENTENCE
    assert [event.asset_key.to_user_string() for event in done.get_asset_materialization_events()] == ["shelf"]


def test_every_asset_check_and_op_tells_its_failure_so() -> None:
    definitions = [*(defs.assets or []), *(defs.asset_checks or []), request_file, request_predictions]
    functions = {found.op.name: found.op.compute_fn.decorated_fn for found in definitions}
    functions |= {
        node.name: node.definition.compute_fn.decorated_fn
        for name in ("add_items", "clean_storage")
        for node in defs.resolve_job_def(name).graph.nodes
    }
    assert len(functions) > 40
    assert [name for name, function in functions.items() if not hasattr(function, "__wrapped__")] == []
