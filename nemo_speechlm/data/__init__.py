"""Manifests, their validation, and the readers that turn them into batches of tensors."""
