"""Phones and their times: a GMM-HMM aligner that is trained from audio, transcripts and a lexicon alone, in PyTorch.

A room of its own beside the tokenizers, which use it: it knows acoustics (features, mixtures, Viterbi) and no units.
"""

from nemo_speechlm.alignment.aligner import AlignedPhone, GmmAligner
from nemo_speechlm.alignment.mfcc import FRAME_RATE, SAMPLE_RATE, Mfcc

__all__ = ["FRAME_RATE", "SAMPLE_RATE", "AlignedPhone", "GmmAligner", "Mfcc"]
