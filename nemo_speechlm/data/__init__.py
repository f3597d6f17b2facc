"""Files to values to batches: manifests, audio, text, corpora, and the loaders of training."""
