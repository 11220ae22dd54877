"""Where shards of work are computed: in this process, or on a Ray cluster."""
