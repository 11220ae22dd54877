"""The asset checks, one module a group of assets, and one of those that look for drift."""

from genrec_dagster.checks import catalog, drift, model, release, serving

__all__ = ["catalog", "drift", "model", "release", "serving"]
