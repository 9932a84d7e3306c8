"""Exports from and to GGUF files."""
