"""Who does the work: this process, processes of this machine, or the actors of a Ray cluster."""
