"""A run's folder: what is written to it, and reading it back."""
