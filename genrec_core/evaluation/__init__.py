"""Test metrics, baselines and plots."""
