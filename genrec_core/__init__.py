"""Generative retrieval: semantic IDs, a TIGER-style model, constrained decoding, evaluation and inference.

Importing it switches off the usage reports of other libraries. Most of them read a variable once, at import. What a
notebook needs is imported when it is first named: ``genrec_core.Recommender`` needs NumPy and onnxruntime.
"""

import os
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec_core.errors import GenrecError
    from genrec_core.fitting import fit
    from genrec_core.recommend.recommender import Ranking, Recommender

__all__ = ["GenrecError", "Ranking", "Recommender", "fit"]
_MODULES = {
    "GenrecError": "genrec_core.errors",
    "Ranking": "genrec_core.recommend.recommender",
    "Recommender": "genrec_core.recommend.recommender",
    "fit": "genrec_core.fitting",
}

_REPORTS_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DAGSTER_DISABLE_TELEMETRY": "yes",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def switch_reports_off() -> None:
    """Set the variables for this process and its children, unless the user has set them; warn if it is too late."""
    if "onnxruntime" in sys.modules and "ORT_DISABLE_TELEMETRY" not in os.environ:  # it has no call that stops it
        warnings.warn(
            "onnxruntime was imported before genrec_core, so it reports to its maker; import genrec_core first, "
            "or set ORT_DISABLE_TELEMETRY=1",
            stacklevel=3,
        )
    for name, value in _REPORTS_OFF.items():
        os.environ.setdefault(name, value)


switch_reports_off()


def __getattr__(name: str) -> Any:
    """Import a name of ``__all__`` when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # so that the next use finds it at once
    return value


def __dir__() -> list[str]:
    """The names of the module, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
