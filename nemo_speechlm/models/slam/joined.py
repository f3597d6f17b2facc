"""The shared encoder over an utterance and its text in one row (SLAM, section 3.1).

Axis legend: B rows, T frames, U tokens with CLS, M places of the longest row, D width.
"""

import torch
from torch import Tensor

from nemo_speechlm.models.common.multitask.shared import encode_embedded
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.sinusoids import sinusoids_at


def encode_joined(
    encoder: SpeechLMEncoder,
    speech: Tensor,
    speech_lengths: Tensor,
    text: Tensor,
    text_lengths: Tensor,
    text_positions: bool = False,
) -> tuple[Tensor, Tensor]:
    """The shared encoder over an utterance and, behind its last frame, a text.

    Args:
        encoder: whose shared encoder.
        speech: (B, T, D) output of the speech encoder.
        speech_lengths: (B,) frames.
        text: (B, U, D) embedded tokens.
        text_lengths: (B,) tokens.
        text_positions: add positions of the text to the frames, see :func:`positions_in_text`.

    Returns:
        the states of speech (B, T, D) and of text (B, U, D); behind the lengths they mean nothing.
    """
    T, U = speech.shape[1], text.shape[1]
    device, end = speech.device, speech_lengths.unsqueeze(1)
    speech = encoder.shared_transformer.pre_encode(speech)  # type: ignore[union-attr, operator]
    if text_positions:
        positions = positions_in_text(speech_lengths, text_lengths, T)
        speech = speech + sinusoids_at(positions, speech.shape[2]).to(speech.dtype)
    place = torch.arange(T + U, device=device).unsqueeze(0)
    source = torch.where(place < end, place, T + place - end).clamp(max=T + U - 1)
    joined = _take(torch.cat([speech, text], 1), source)
    joined = encode_embedded(encoder, joined, speech_lengths + text_lengths)
    return joined[:, :T], _take(joined, end + torch.arange(U, device=device))


def positions_in_text(speech_lengths: Tensor, text_lengths: Tensor, T: int) -> Tensor:
    """Where each frame would stand in a text whose tokens all lasted equally long, (B, T) float64.

    CLS has position 0, and the tokens have those from 1 on: an utterance's first frames have positions just above 0.5,
    its last ones positions just below U - 0.5.
    """
    middle = torch.arange(T, device=speech_lengths.device, dtype=torch.float64) + 0.5
    frames_of_a_token = speech_lengths / (text_lengths - 1).clamp(min=1).double()
    return 0.5 + middle / frames_of_a_token.clamp(min=1e-9).unsqueeze(1)


def _take(x_BMD: Tensor, place_BN: Tensor) -> Tensor:
    """(B, N, D): of each row, what stands at these places."""
    return x_BMD.gather(1, place_BN.unsqueeze(2).expand(-1, -1, x_BMD.shape[2]))
