"""Work for the tests of the engines; a module of its own, because workers import it by its name."""

import os
import time
from pathlib import Path

from genrec_core.errors import GenrecError


def after(base: int, shard: tuple[int, float]) -> tuple[int, int]:
    """``base + number`` after a delay, and the process that computed it."""
    number, seconds = shard
    time.sleep(seconds)
    return base + number, os.getpid()


def refused(limit: int, number: int) -> int:
    """A number up to ``limit``."""
    if number > limit:
        raise GenrecError(f"{number} is more than {limit}")
    return number


def dying_once(folder: Path, number: int) -> int:
    """A number; the process that is first asked for it dies."""
    try:
        (folder / str(number)).touch(exist_ok=False)
    except FileExistsError:
        return number
    os._exit(9)


def dying(_: None, number: int) -> int:
    """Never a number."""
    os._exit(9)
