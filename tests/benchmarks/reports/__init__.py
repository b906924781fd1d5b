"""What it costs to write a report, for audits of any size."""
