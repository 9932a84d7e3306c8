"""Confidence intervals and calibration."""
