"""Every arm on planted phantoms, and what a step costs."""
