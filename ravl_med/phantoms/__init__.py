"""Chest phantoms: drawn, planned, reported on and written as DICOM, with the truth about each."""
