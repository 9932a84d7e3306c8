"""What a run is told to do: strict models, a YAML reader, and the words for what went wrong."""
