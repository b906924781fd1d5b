"""The whole tool on phantom cohorts whose truth is known."""
