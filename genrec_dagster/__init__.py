"""The asset graph: Dagster definitions around :mod:`genrec_core`."""

import genrec_core  # noqa: F401 - switches off the telemetry of Dagster and MLflow before they are imported
