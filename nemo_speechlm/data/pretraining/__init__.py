"""From manifests with units to the batches of a pretraining step."""
