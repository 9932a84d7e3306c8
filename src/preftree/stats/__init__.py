"""How sure a figure is: intervals and calibration."""
