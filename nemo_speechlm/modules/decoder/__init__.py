"""Attention decoders."""
