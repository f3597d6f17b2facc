"""The shared encoder over an utterance and its text in one row (SLAM, section 3.1).

Axis legend: B rows, T frames, U tokens with CLS, M places of the longest row, D width.
"""

import torch
from torch import Tensor

from nemo_speechlm.models.common.multitask.shared import encode_embedded
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.sinusoids import sinusoids_at


def encode_joined(
    encoder: SpeechLMEncoder,
    speech: Tensor,
    speech_lengths: Tensor,
    text: Tensor,
    text_lengths: Tensor,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The shared encoder over an utterance and, behind its last frame, a text.

    Args:
        encoder: whose shared encoder.
        speech: (B, T, D) output of the speech encoder.
        speech_lengths: (B,) frames.
        text: (B, U, D) embedded tokens.
        text_lengths: (B,) tokens.
        positions: (B, T) where the frames stand in the text, which is added to them; None: they have none there.

    Returns:
        the states of speech (B, T, D) and of text (B, U, D); behind the lengths they mean nothing.
    """
    T, U = speech.shape[1], text.shape[1]
    device, end = speech.device, speech_lengths.unsqueeze(1)
    speech = encoder.shared_transformer.pre_encode(speech)  # type: ignore[union-attr, operator]
    if positions is not None:
        speech = speech + sinusoids_at(positions, speech.shape[2]).to(speech.dtype)
    place = torch.arange(T + U, device=device).unsqueeze(0)
    source = torch.where(place < end, place, T + place - end).clamp(max=T + U - 1)
    joined = _take(torch.cat([speech, text], 1), source)
    joined = encode_embedded(encoder, joined, speech_lengths + text_lengths)
    return joined[:, :T], _take(joined, end + torch.arange(U, device=device))


def even_positions(speech_lengths: Tensor, text_lengths: Tensor, T: int) -> Tensor:
    """Where each frame would stand in a text whose tokens all lasted equally long, (B, T) float64.

    CLS has position 0, the tokens have those from 1 on: the first frames have positions just above 0.5.
    """
    middle = torch.arange(T, device=speech_lengths.device, dtype=torch.float64) + 0.5
    tokens = (text_lengths - 1).double()
    return 0.5 + middle * (tokens / speech_lengths.clamp(min=1)).unsqueeze(1)


def spelled_positions(log_probs: Tensor, speech_lengths: Tensor, text_lengths: Tensor) -> Tensor:
    """Where each frame stands in a text, as CTC counts the tokens that have been spelled until then, (B, T) float64.

    The count grows by what is likelier in a frame than in the one before. It is stretched to the length of the text,
    so that the last frame has the position of the last token.

    Args:
        log_probs: (B, T, V + 1), blank last.
        speech_lengths: (B,) frames.
        text_lengths: (B,) tokens with CLS.
    """
    T = log_probs.shape[1]
    spelled = log_probs[:, :, :-1].detach().exp().double()
    new = (spelled - torch.nn.functional.pad(spelled[:, :-1], (0, 0, 1, 0))).clamp(min=0).sum(2)
    new = new.masked_fill(padding_mask(speech_lengths, T), 0.0)
    count = new.cumsum(1)
    return count * ((text_lengths - 1) / count[:, -1].clamp(min=1e-9)).unsqueeze(1)


def _take(x_BMD: Tensor, place_BN: Tensor) -> Tensor:
    """(B, N, D): of each row, what stands at these places."""
    return x_BMD.gather(1, place_BN.unsqueeze(2).expand(-1, -1, x_BMD.shape[2]))
