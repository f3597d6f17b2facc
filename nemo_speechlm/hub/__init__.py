"""Models on the Hugging Face hub: restored by name, and put there with a card that tells how they were made."""
