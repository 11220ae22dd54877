"""Why a step failed, in words."""

import dagster as dg

INTERRUPTED = "interrupted"


def is_failed_gate(event: dg.DagsterEvent) -> bool:
    """Whether a step failed only because its blocking check did, which is an event of its own."""
    error = event.step_failure_data.error
    return error is not None and error.cls_name == "DagsterAssetCheckFailedError"


def failure_reason(event: dg.DagsterEvent) -> str:
    """The innermost error's message."""
    data = event.step_failure_data
    if data.error_source and data.error_source.value == "INTERRUPT":
        return INTERRUPTED
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error else "no reason given"
