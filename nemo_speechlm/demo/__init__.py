"""The demo: a corpus that makes itself, pretraining, fine-tuning, a table."""
