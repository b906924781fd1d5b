"""The audit on paper and as data: figures, PDF, JSON."""
