"""Token sequences on disk."""
