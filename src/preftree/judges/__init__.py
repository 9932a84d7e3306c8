"""Rewards of responses and verdicts on pairs: worlds, functions of the user, reward models, classifiers."""
