"""Figures that a run's models give while they are in memory."""
