"""Token sequences on disk: the store, its writer and key, and views of it."""
