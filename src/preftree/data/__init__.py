"""Data pipeline: sources of rows, formats, records, tokens, the store on disk, and the order of steps."""
