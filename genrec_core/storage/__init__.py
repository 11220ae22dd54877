"""Artefacts that appear whole or not at all, in folders and buckets."""
