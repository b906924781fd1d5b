"""The search on simulated cohorts whose truth is known: calibration, power, speed."""
