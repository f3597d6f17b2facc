"""Units from alignments that other tools made: CTM, TextGrid, label files."""
