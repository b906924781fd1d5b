"""What a report is made of, and how paper and browser set it: blocks, figures, PDF, HTML."""
