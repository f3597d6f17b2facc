"""The parts of foreign checkpoints: encoder, heads, decoders; their names and settings in ours."""
