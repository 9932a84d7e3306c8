"""Training: one step, one loop, and one file for each recipe."""
