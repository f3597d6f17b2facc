"""Cross entropy of a decoder, smoothed as fairseq does."""

from torch import Tensor
from torch.nn import functional as F


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float, padding: int) -> Tensor:
    """The sum over tokens of the cross entropy with smoothed targets.

    The right token gets ``1 - smoothing``; the others share ``smoothing`` among them. PyTorch gives the right one a
    part of that share too, which is why its own ``label_smoothing`` is a little more here.

    Args:
        logits: (B, U, V).
        targets: (B, U) token ids.
        smoothing: in [0, 1).
        padding: id of targets that do not count.

    Returns:
        () in fp32.
    """
    V = logits.shape[-1]
    return F.cross_entropy(
        logits.float().flatten(0, 1),
        targets.flatten(),
        ignore_index=padding,
        reduction="sum",
        label_smoothing=smoothing * V / (V - 1),
    )
