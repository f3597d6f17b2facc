"""Read foreign checkpoints without running code that they may hold, and recognize what they are."""
