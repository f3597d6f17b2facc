"""Hidden units: k-means over MFCC or a teacher's features."""
