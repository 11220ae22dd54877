"""Generative retrieval: semantic IDs, a TIGER-style model, constrained decoding, evaluation and inference."""
