"""From manifests with transcripts to the batches of a recognition model."""
