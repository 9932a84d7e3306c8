"""Trackers of experiments: where a run's options, figures, report and samples go, beside its own folder."""
