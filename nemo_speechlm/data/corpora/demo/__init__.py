"""The demo's corpus, spoken by espeak-ng."""
