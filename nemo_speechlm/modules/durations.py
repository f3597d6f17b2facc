"""How long units last: predicting it, and repeating states for it."""

import torch
from nemo.core.classes import NeuralModule
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_speechlm.modules.fast_speech import same_conv, zero_padded
from nemo_speechlm.modules.padding import padding_mask


class DurationPredictor(NeuralModule):
    """The logarithm of one more than each phone's frames: two convolutions with layer norms, and a projection.

    Args:
        d_model: D, width of the phones' states.
        d_hidden: channels of the convolutions.
        kernel: of the convolutions, odd.
        dropout: after each layer norm.
        released_padding: see :class:`FFTransformer`.
    """

    def __init__(
        self, d_model: int, d_hidden: int = 256, kernel: int = 3, dropout: float = 0.5, released_padding: bool = False
    ):
        super().__init__()
        self.released_padding = released_padding
        self.conv1, self.conv2 = same_conv(d_model, d_hidden, kernel), same_conv(d_hidden, d_hidden, kernel)
        self.norm1, self.norm2 = nn.LayerNorm(d_hidden), nn.LayerNorm(d_hidden)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(d_hidden, 1)

    def forward(self, x_BPD: Tensor, lengths: Tensor) -> Tensor:
        """States (B, P, D) and lengths (B,) -> (B, P) log(1 + frames)."""
        padding = None if self.released_padding else padding_mask(lengths, x_BPD.shape[1])
        x = x_BPD
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            x = self.dropout(norm(F.relu(conv(zero_padded(x, padding).transpose(1, 2))).transpose(1, 2)))
        return self.proj(x).squeeze(2)


def repeat_states(x_BPD: Tensor, durations_BP: Tensor) -> tuple[Tensor, Tensor]:
    """FastSpeech's length regulator: each phone's state, as often as it has frames.

    Args:
        x_BPD: (B, P, D).
        durations_BP: (B, P) int64 frames, 0 where padded.

    Returns:
        (B, T, D) with zeros behind each sentence's end, and the lengths (B,); T is the longest of them.
    """
    owners, lengths = frame_owners(durations_BP)
    return repeat_owned(x_BPD, owners, lengths), lengths


def frame_owners(durations_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Which phone each frame belongs to (B, T), T being the frames of the longest sentence, and the frames (B,).

    What a frame behind a sentence's end belongs to means nothing.
    """
    ends = durations_BP.cumsum(1)
    lengths = ends[:, -1]
    frames = torch.arange(int(lengths.max()), device=ends.device).expand(len(ends), -1)
    return torch.searchsorted(ends, frames.contiguous(), right=True).clamp(max=ends.shape[1] - 1), lengths


def repeat_owned(x_BPD: Tensor, owners_BT: Tensor, lengths: Tensor) -> Tensor:
    """The state of each frame's owner: (B, P, D) -> (B, T, D), zero behind the lengths (B,)."""
    states = x_BPD.gather(1, owners_BT.unsqueeze(2).expand(-1, -1, x_BPD.shape[2]))
    return states.masked_fill(padding_mask(lengths, owners_BT.shape[1]).unsqueeze(2), 0.0)


def durations_of(log_durations_BP: Tensor, lengths: Tensor, speed: float = 1.0, longest: int | None = None) -> Tensor:
    """Frames of predicted durations: (B, P) log(1 + frames) -> (B, P) int64, 0 where padded.

    Args:
        log_durations_BP: what :class:`DurationPredictor` says.
        lengths: phones of each sentence, (B,).
        speed: durations are divided by it.
        longest: frames that a phone has at most, whatever the speed; None: no limit.
    """
    frames = ((log_durations_BP.float().exp() - 1) / speed).round()
    if longest is not None:  # as floats: infinity is no whole number
        frames = frames.clamp(max=longest)
    frames = frames.long().clamp(min=0)
    return frames.masked_fill(padding_mask(lengths, frames.shape[1]), 0)
