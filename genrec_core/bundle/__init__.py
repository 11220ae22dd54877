"""The exported model's folder: its files, its graphs, its items. Needs no torch."""
