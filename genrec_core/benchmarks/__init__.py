"""Timings that ``genrec bench NAME --json`` prints, each as one JSON object."""
