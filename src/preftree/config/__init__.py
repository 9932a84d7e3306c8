"""Options of a run: strict models, their descriptions, a YAML reader, and sentences for what is wrong."""
