"""From a frame classifier's logits to the scores that its phone loop decodes (hybrid of network and HMM)."""

import torch
from torch import Tensor


def scaled_scores(logits: Tensor, frames: Tensor, lengths: Tensor, priors: Tensor) -> Tensor:
    """Scores of exactly ``lengths`` frames; where the encoder has fewer, its last one is repeated.

    Args:
        logits: (B, T, C) of the classes.
        frames: (B,) that the encoder has of each utterance.
        lengths: (B,) that are wanted.
        priors: (C,) log-probabilities of the classes, taken off.

    Returns:
        (B, max lengths, C).
    """
    scores = logits.float().log_softmax(-1) - priors
    index = torch.arange(int(lengths.max()), device=scores.device).expand(len(scores), -1)
    index = torch.minimum(index, (frames - 1).clamp(min=0).unsqueeze(1))
    return scores.gather(1, index.unsqueeze(2).expand(-1, -1, scores.shape[2]))
