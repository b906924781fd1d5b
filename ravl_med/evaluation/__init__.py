"""The controlled evaluation of RaVL's paper: models whose shortcut is known, and who finds it."""
