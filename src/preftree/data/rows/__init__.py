"""Records of rows: typed fields, faults, duplicates, conversion, texts."""
