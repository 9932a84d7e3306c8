"""Model plus packed trees: log-probs of the scored tokens."""
