"""Films, radiology reports and labels: read, windowed, counted, and set aside with a reason."""
