"""Labels off radiology reports: sections, phrases, findings."""
