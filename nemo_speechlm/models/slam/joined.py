"""The shared encoder over an utterance and its text in one row (SLAM, section 3.1).

Axis legend: B rows, T frames, U tokens with CLS, M places of the longest row, D width.
"""

import torch
from torch import Tensor

from nemo_speechlm.models.common.multitask.shared import encode_embedded
from nemo_speechlm.modules.encoder import SpeechLMEncoder


def encode_joined(
    encoder: SpeechLMEncoder, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """The shared encoder over an utterance and, behind its last frame, a text.

    Args:
        encoder: whose shared encoder.
        speech: (B, T, D) output of the speech encoder.
        speech_lengths: (B,) frames.
        text: (B, U, D) embedded tokens.
        text_lengths: (B,) tokens.

    Returns:
        the states of speech (B, T, D) and of text (B, U, D); behind the lengths they mean nothing.
    """
    T, U = speech.shape[1], text.shape[1]
    device, end = speech.device, speech_lengths.unsqueeze(1)
    speech = encoder.shared_transformer.pre_encode(speech)  # type: ignore[union-attr, operator]
    place = torch.arange(T + U, device=device).unsqueeze(0)
    source = torch.where(place < end, place, T + place - end).clamp(max=T + U - 1)
    joined = _take(torch.cat([speech, text], 1), source)
    joined = encode_embedded(encoder, joined, speech_lengths + text_lengths)
    return joined[:, :T], _take(joined, end + torch.arange(U, device=device))


def _take(x_BMD: Tensor, place_BN: Tensor) -> Tensor:
    """(B, N, D): of each row, what stands at these places."""
    return x_BMD.gather(1, place_BN.unsqueeze(2).expand(-1, -1, x_BMD.shape[2]))
