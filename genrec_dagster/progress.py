"""Progress of long work in a step's log."""

import time
from collections.abc import Callable

import dagster as dg

_EVERY_SECONDS = 15.0


def progress_log(context: dg.AssetExecutionContext, what: str) -> Callable[[int, int], None]:
    """A listener that logs ``what`` with how much of it is done, every few seconds."""
    reported = time.monotonic()

    def listen(done: int, total: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= _EVERY_SECONDS:
            reported = time.monotonic()
            context.log.info(f"{what}: {done:,} of {total:,}")

    return listen
