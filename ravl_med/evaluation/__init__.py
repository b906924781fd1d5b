"""Proof that the tool works: runs whose truth is known, and the tables of the README."""
