"""The embedded world, end to end."""
