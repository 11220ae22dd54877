"""The assets, one module a group. ``requests`` is apart, as its assets exist only with an inbox."""
