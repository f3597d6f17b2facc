"""Manifests: JSON lines about utterances or sentences."""
