"""Losses in words and in mathematics, from their docstrings."""
