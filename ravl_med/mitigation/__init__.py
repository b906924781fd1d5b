"""Fine-tuning: the trainer, which also makes the quickstart model."""
