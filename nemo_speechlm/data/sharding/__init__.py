"""Manifests in shards: tar files of audio with a manifest for each, as NeMo has them, and shards of text."""
