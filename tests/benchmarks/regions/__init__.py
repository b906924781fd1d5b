"""Regions against phantoms, against films that people have marked, and against the clock."""
