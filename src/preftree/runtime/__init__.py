"""Ranks and sums over them, processes, signals, folders outside of runs, and the log."""
