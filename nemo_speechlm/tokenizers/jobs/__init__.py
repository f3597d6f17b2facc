"""Tokenizers over whole manifests."""
