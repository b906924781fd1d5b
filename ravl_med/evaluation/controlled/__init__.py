"""Controlled settings: known shortcuts in many small models, this tool against its baselines."""
