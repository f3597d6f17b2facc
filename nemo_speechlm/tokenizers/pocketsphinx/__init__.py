"""English phones by pocketsphinx's acoustic model."""
