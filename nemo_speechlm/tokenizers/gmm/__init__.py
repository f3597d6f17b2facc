"""Phones from a GMM-HMM aligner that the user trains."""
