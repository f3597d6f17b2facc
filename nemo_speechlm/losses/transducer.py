"""The RNN-T loss from states of an encoder and of a prediction network, without all logits at once.

Axis legend: B rows, T frames, U targets, V symbols and blank, D width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from nemo_speechlm.kernels.lattice import lattice_nll

LOGITS = 2**24
"""Logits that are alive at once, if a single frame does not have more."""


def transducer_log_probs(
    joint: Any, encoded_BTD: Tensor, predicted_BUD: Tensor, tokens: Tensor, most: int = LOGITS
) -> tuple[Tensor, Tensor]:
    """What a lattice needs of NeMo's joint network: the log-probabilities of blank and of the targets.

    The logits are made for some frames at a time. Where there are several such parts, each is made anew for its
    gradient.

    Args:
        joint: NeMo's ``RNNTJoint``; blank is its last symbol.
        encoded_BTD: states of the encoder.
        predicted_BUD: (B, U + 1, D) states of the prediction network, that of the start first.
        tokens: (B, U) targets; padding may be any symbol.
        most: logits that are alive at once.

    Returns:
        of blank (B, T, U + 1) and of the targets (B, T, U), in float32 at least.
    """
    encoded, predicted = joint.project_encoder(encoded_BTD), joint.project_prednet(predicted_BUD)
    B, T = encoded.shape[:2]
    frame = B * predicted.shape[1] * joint.num_classes_with_blank
    step = max(1, most // frame)
    if step >= T:
        return _log_probs(joint, encoded, predicted, tokens)
    parts = [
        checkpoint(_log_probs, joint, part, predicted, tokens, use_reentrant=False) for part in encoded.split(step, 1)
    ]
    blank, emit = zip(*parts, strict=True)
    return torch.cat(blank, 1), torch.cat(emit, 1)


def _log_probs(joint: Any, encoded: Tensor, predicted: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    return lattice_log_probs(joint.joint_after_projection(encoded, predicted), tokens)


def lattice_log_probs(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of blank (B, T, U + 1) and of the targets (B, T, U), in float32 at least.

    Args:
        logits: (B, T, U + 1, V), or log-probabilities; blank is the last symbol.
        tokens: (B, U) targets.
    """
    return _LogProbs.apply(logits if logits.dtype == torch.float64 else logits.float(), tokens)


class _LogProbs(torch.autograd.Function):
    """Three passes over the logits' gradient, and no other tensor of their size."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        total = logits.logsumexp(-1)
        wanted = tokens[:, None, :, None].expand(-1, logits.shape[1], -1, 1)
        ctx.save_for_backward(logits, total, wanted)
        emit = logits[:, :, :-1].gather(3, wanted).squeeze(3)
        return logits[..., -1] - total, emit - total[:, :, :-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_blank: Tensor, of_emit: Tensor) -> tuple[Tensor, None]:
        logits, total, wanted = ctx.saved_tensors
        together = of_blank + pad(of_emit, (0, 1))
        gradient = (logits - total.unsqueeze(3)).exp_().mul_(-together.unsqueeze(3))
        gradient[..., -1] += of_blank
        gradient[:, :, :-1].scatter_add_(3, wanted, of_emit.unsqueeze(3))
        return gradient, None


def transducer_loss(
    joint: Any, encoded_BTD: Tensor, frames: Tensor, predicted_BUD: Tensor, tokens: Tensor, targets: Tensor
) -> Tensor:
    """The RNN-T loss (B,) of each row.

    Args:
        joint: see :func:`transducer_log_probs`, as the next.
        encoded_BTD: states of the encoder.
        frames: (B,) of them.
        predicted_BUD: (B, U + 1, D).
        tokens: (B, U).
        targets: (B,) of them.
    """
    return lattice_nll(*transducer_log_probs(joint, encoded_BTD, predicted_BUD, tokens), frames, targets)
