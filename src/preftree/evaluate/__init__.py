"""What came of a run: figures measured after training, and what looks wrong in words."""
