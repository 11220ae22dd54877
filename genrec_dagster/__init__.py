"""The asset graph: Dagster definitions around :mod:`genrec_core`."""
