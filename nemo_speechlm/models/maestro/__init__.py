"""MAESTRO: speech and text matched through learned alignments (arXiv 2204.03409)."""
