"""Regions of a film and the geometry that carries them into the model's input."""
