"""What a user restores: NeMo models for pretraining and for recognition."""
