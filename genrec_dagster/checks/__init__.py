"""The asset checks, one module a group, named as in :mod:`genrec_dagster.assets`."""
