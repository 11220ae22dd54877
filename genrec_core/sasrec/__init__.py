"""SASRec with full cross-entropy: the baseline that a generative recommender must beat."""
