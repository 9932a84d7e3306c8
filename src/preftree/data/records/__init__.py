"""Rows as records: typed fields, faults, duplicates, conversion."""
