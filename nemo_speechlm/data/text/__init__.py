"""Text: languages, cleaning, characters, pieces."""
