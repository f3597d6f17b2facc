"""The shared encoder over rows that did not come from its speech encoder."""

from typing import Any, Protocol

import torch
from nemo.collections.asr.modules import ConformerEncoder
from torch import Tensor

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.modules.encoder import SpeechLMEncoder


class WithSharedTransformer(Protocol):
    """What has the shared encoder."""

    shared_transformer: Any


def check_shared_transformer(encoder: SpeechLMEncoder) -> None:
    """Check that the second half of an encoder can be fed with states of text.

    Raises:
        SpeechLMError: if it is no Conformer with a linear projection of its input.
    """
    shared = encoder.shared_transformer
    if not isinstance(shared, ConformerEncoder) or not isinstance(shared.pre_encode, torch.nn.Linear):
        raise SpeechLMError(
            f"model.encoder.shared_transformer is a {type(shared).__name__}; expected a "
            "nemo_speechlm.modules.MaskedConformer whose subsampling_factor is 1"
        )


def encode_embedded(encoder: WithSharedTransformer, states: Tensor, lengths: Tensor) -> Tensor:
    """The shared encoder over rows that are embedded already: (B, U, D) and lengths (B,) -> (B, U, D).

    The projection that speech passes between the encoders is left out.
    """
    encoded, _ = encoder.shared_transformer(audio_signal=states, length=lengths, bypass_pre_encode=True)
    return encoded.transpose(1, 2)
