"""What several models share: features, weights taken from files, freezing, schedules, acceleration."""
