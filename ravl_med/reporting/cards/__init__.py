"""Model cards: of an audited model, of a delivered one."""
