"""Every stage in order: an audit, and the mitigation that may follow it."""
