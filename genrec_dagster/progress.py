"""Reports the progress of long work in a step's log."""

import time
from collections.abc import Callable

import dagster as dg

_EVERY_SECONDS = 15.0


def progress_log(context: dg.AssetExecutionContext, what: str) -> Callable[[int, int], None]:
    """A callback that logs ``what`` with the done and the total amount, every few seconds."""
    reported = time.monotonic()

    def listen(done: int, total: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= _EVERY_SECONDS:
            reported = time.monotonic()
            context.log.info(f"{what}: {done:,} of {total:,}")

    return listen
