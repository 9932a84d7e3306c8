"""Checks of finished runs, one a file, and their table (diagnose.py).

A check takes the evidence and returns a Diagnosis, None where all is well, or Missing where figures are lacking.
The thresholds were fixed on runs with planted failures, seeds 0-2 of benchmarks/diagnose.py, and are tested on its
other seeds in docs/report.md. The figures beside them are of seeds 0-2: healthy runs against the planted failures.
"""
