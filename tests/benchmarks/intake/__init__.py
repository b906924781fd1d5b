"""Reading of films against the clock and against hostile files."""
