"""Tools for data files before a run: inspect, convert, cut."""
