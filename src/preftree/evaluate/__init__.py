"""Evaluation of finished runs: figures measured after training, and checks for failures."""
