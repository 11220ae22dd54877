"""Which model is served, and how a release gets from one storage to another."""
