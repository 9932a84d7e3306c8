"""A run as one page: charts, tables and words in a single HTML file that needs nothing else."""
