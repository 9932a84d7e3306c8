"""What is done with data files before a run: inspect, convert, cut."""
