"""The report of a mitigation: chapters, tables, the same numbers as JSON."""
