"""Judges and verdicts themselves measured: who agrees with what is known, who leans, and which model wins."""
