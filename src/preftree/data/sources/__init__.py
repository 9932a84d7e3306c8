"""Where rows come from: files, and data sets of the hub."""
