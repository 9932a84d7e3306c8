"""Losses of pairs: one family a file."""
