"""Generative retrieval: semantic IDs, a TIGER-style model, constrained decoding, evaluation and inference.

Importing it switches off the usage reports of other libraries. Most of them read a variable once, at import.
"""

import os
import sys
import warnings

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
