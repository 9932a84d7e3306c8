"""Sources of rows: files, data sets of the hub, rows in memory."""
