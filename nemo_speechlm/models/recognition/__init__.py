"""Models that write text: CTC, RNN-T, attention decoder."""
