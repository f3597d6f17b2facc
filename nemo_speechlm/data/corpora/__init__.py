"""Corpora as they are distributed, turned into manifests."""
