"""Models in GGUF files: reading them into ordinary models, and writing them for llama.cpp."""
