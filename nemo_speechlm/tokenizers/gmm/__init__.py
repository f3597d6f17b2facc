"""Phones from a GMM-HMM aligner that is trained on one's own speech."""
