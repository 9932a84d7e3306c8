"""Scoring of packed trees with a model: log-probs, rewards, values."""
