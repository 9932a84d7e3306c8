"""From scored pairs to a trained model folder: one step, one loop, and a recipe a file."""
