"""Models and tokenizers: from a folder or the hub, and back into a folder."""
