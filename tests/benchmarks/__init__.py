"""Benchmarks: ``make bench NAME=decode``, or ``python -m tests.benchmarks decode --help``. No part of the wheel."""
