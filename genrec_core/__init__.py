"""Generative retrieval: semantic IDs, a TIGER-style model, constrained decoding, evaluation and inference."""

from genrec_core import telemetry

telemetry.switch_off()  # before anything else is imported
