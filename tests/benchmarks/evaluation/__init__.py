"""The page of the controlled evaluation, drawn from what ``ravl-med evaluate`` has run."""
