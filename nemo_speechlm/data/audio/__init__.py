"""Audio files: read, resampled, streamed, cut."""
