"""The assets, one module a group. ``requests`` is apart, as its assets exist only with an inbox."""

from genrec_dagster.assets import catalog, model, release, serving

__all__ = ["catalog", "model", "release", "serving"]
