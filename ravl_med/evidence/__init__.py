"""Is it real, does the model use it, is it a shortcut or a sign, and what follows."""
