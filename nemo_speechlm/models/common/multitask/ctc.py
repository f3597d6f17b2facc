"""A CTC loss beside the tasks of a paper: it tells the speech encoder early what is said where.

Axis legend: B pairs, T frames, U tokens, V symbols.
"""

from torch import Tensor
from torch.nn import functional as F

from nemo_speechlm.losses import at_least_float32
from nemo_speechlm.models.common.multitask.figures import Figure


def ctc_figure(logits: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Figure:
    """The CTC loss per token; 0 where a text has no path.

    Args:
        logits: (B, T, V + 1), blank last.
        lengths: (B,) frames.
        tokens: (B, U).
        token_lengths: (B,).
    """
    log_probs = at_least_float32(logits).log_softmax(-1)
    blank = log_probs.shape[2] - 1
    loss = F.ctc_loss(
        log_probs.transpose(0, 1), tokens, lengths, token_lengths, blank=blank, reduction="sum", zero_infinity=True
    )
    return Figure(loss, token_lengths.sum())
