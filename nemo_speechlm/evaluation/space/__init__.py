"""The space that speech and units share in a SpeechLM model: alignment of layers, and pictures."""
