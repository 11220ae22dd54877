"""Seconds of each asset and peak memory of the last finished run of the graph."""

from pathlib import Path
from typing import Any

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import read_json
from genrec_core.storage.folders import storage_root
from genrec_dagster.run import LAST_RUN
from tests.benchmarks.machine import describe

_FIELDS = ("run_id", "status", "asset_seconds", "peak_mb")


def run(root: Path | None = None) -> dict[str, Any]:
    """Report the run that ``last_run.json`` of the storage records.

    Args:
        root: the storage; :func:`~genrec_core.storage.folders.storage_root` where None.

    Returns:
        The record (``run_id``, ``status``, ``asset_seconds`` by asset, ``peak_mb`` over all processes, and what else it
        holds), and the machine that this is. The commit is the one that ran, where the record names it.

    Raises:
        GenrecError: no run was recorded, or the record lacks a field.
    """
    path = (root or storage_root()) / LAST_RUN
    if not path.is_file():
        raise GenrecError(f"{path}: no run is recorded there; run the graph first, for example with `make run`")
    record = read_json(path)
    missing = [field for field in _FIELDS if not isinstance(record, dict) or field not in record]
    if missing:
        raise GenrecError(f"{path}: lacks {', '.join(missing)}; run the graph again")
    return {"benchmark": "graph", **describe(), **record}
