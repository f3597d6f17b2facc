"""Features of every layer, written to files."""
