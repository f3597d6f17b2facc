"""Checkpoints of others: read without running code that they may hold, recognized by content, turned into ours."""
