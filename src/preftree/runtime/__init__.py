"""Ranks and sums over them, processes, signals, cache folders, and the log."""
