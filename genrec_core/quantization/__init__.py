"""Item vectors to semantic IDs: the quantiser, k-means, collisions, new items."""
