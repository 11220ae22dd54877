"""Errors for users, shown as one sentence in failed steps and failed checks."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

import dagster as dg
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._utils.error import SerializableErrorInfo  # type: ignore[attr-defined]  # Dagster imports it there

from genrec_core.errors import GenrecError

INTERRUPTED = "interrupted"
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class PlainFailureError(GenrecError, DagsterUserCodeProcessError, dg.Failure):
    """A failure that Dagster shows as one sentence, without a stack, and does not retry.

    Dagster adds a stack to every exception but a ``DagsterUserCodeProcessError``, which carries its own.
    """

    def __init__(self, sentence: str, metadata: Mapping[str, str | int] | None = None) -> None:
        dg.Failure.__init__(self, sentence, metadata, allow_retries=False)
        self.user_code_process_error_infos = [SerializableErrorInfo(sentence, [], GenrecError.__name__)]


def plain_failures(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorate an asset or op: a :class:`GenrecError` becomes a :class:`PlainFailureError`; others keep their stack."""

    @wraps(function)
    def wrapper(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        try:
            return function(*arguments, **named)
        except PlainFailureError:  # it already is one, perhaps with metadata
            raise
        except GenrecError as error:
            raise PlainFailureError(str(error)) from None

    return wrapper


def reasons_in_results(
    function: Callable[_Arguments, dg.AssetCheckResult],
) -> Callable[_Arguments, dg.AssetCheckResult]:
    """Decorate a check: after a :class:`GenrecError` it has failed, with the error's text as description."""

    @wraps(function)
    def wrapper(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> dg.AssetCheckResult:
        try:
            return function(*arguments, **named)
        except GenrecError as error:
            return dg.AssetCheckResult(passed=False, description=str(error), metadata={"reason": str(error)})

    return wrapper


def is_failed_gate(event: dg.DagsterEvent) -> bool:
    """Whether a step failed only because its blocking check failed. The check has an event of its own."""
    error = event.step_failure_data.error
    return error is not None and error.cls_name == "DagsterAssetCheckFailedError"


def failure_reason(event: dg.DagsterEvent) -> str:
    """The message of the innermost error of a failed step."""
    data = event.step_failure_data
    if data.error_source and data.error_source.value == "INTERRUPT":
        return INTERRUPTED
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error else "no reason given"
