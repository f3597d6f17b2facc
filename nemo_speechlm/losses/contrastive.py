"""The contrastive loss of wav2vec 2.0 (arXiv 2006.11477, section 3.2), with distractors of the same utterance.

Axis legend: N masked frames of all utterances, K distractors, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nemo_speechlm.losses.precision import at_least_float32


class ContrastivePrediction(NamedTuple):
    """How well the code of frames is told from those of other frames; all are () tensors on the device.

    Attributes:
        loss: sum of the cross-entropies over the frames, in nats.
        correct: frames whose code is nearer than all other ones. A frame without a distractor of another code is none.
    """

    loss: Tensor
    correct: Tensor


def contrastive_prediction(
    states_ND: Tensor,
    targets_ND: Tensor,
    codes_N: Tensor,
    distractors_NK: Tensor,
    temperature: float = 0.1,
    leave_out_same: bool = True,
) -> ContrastivePrediction:
    """Cross-entropy of each frame's target among its distractors, by cosine similarity.

    Args:
        states_ND: (N, D) what is predicted for each masked frame.
        targets_ND: (N, D) the quantized frames.
        codes_N: (N,) their codes.
        distractors_NK: (N, K) positions among the N.
        temperature: that the similarities are divided by.
        leave_out_same: leave out a distractor with the code of the target itself, as wav2vec 2.0 does. One code for
            all frames then has a loss of 0, which is what a codebook may collapse to; with False it has log(K + 1).
    """
    with torch.autocast(states_ND.device.type, enabled=False):
        states, targets = map(at_least_float32, (states_ND, targets_ND))
        similarities = F.normalize(states, dim=1) @ F.normalize(targets, dim=1).T
    own = similarities.diagonal().unsqueeze(1) / temperature
    same = codes_N[distractors_NK] == codes_N.unsqueeze(1)
    others = similarities.gather(1, distractors_NK) / temperature
    if leave_out_same:
        others = others.masked_fill(same, float("-inf"))
    loss = (torch.cat([own, others], 1).logsumexp(1) - own[:, 0]).sum()
    correct = ~same.all(1) & ((own > others) | same).all(1)
    return ContrastivePrediction(loss, correct.sum())
