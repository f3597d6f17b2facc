"""Features of every layer, from raw audio: what all our models offer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nemo_speechlm.modules.encoder import SpeechLMEncoder


class FeatureExtraction:
    """Mixin for models with a ``preprocessor`` and a :class:`SpeechLMEncoder` as ``encoder``."""

    preprocessor: nn.Module
    encoder: SpeechLMEncoder

    @torch.no_grad()
    def extract_features(
        self, waveform: Tensor, length: Tensor, layers: Sequence[int] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The hidden states of a batch, computed in evaluation mode.

        Args:
            waveform: (B, S) audio at the model's sample rate.
            length: (B,) samples of each.
            layers: which transformer layers, counted from 0 over the speech and then the shared transformer; all of
                them where it is None.

        Returns:
            one (B, T, D) tensor per layer, the last layer's being the encoder's output; and the frames of each (B,).

        Raises:
            IndexError: where there is no such layer.
        """
        modules: tuple[nn.Module, ...] = (self.preprocessor, self.encoder)
        were_training = [module.training for module in modules]
        try:
            for module in modules:
                module.eval()
            signal, signal_length = self.preprocessor(input_signal=waveform, length=length)
            outputs, frames = self.encoder.layer_outputs(signal, signal_length)
        finally:
            for module, was_training in zip(modules, were_training, strict=True):
                module.train(was_training)
        return (outputs if layers is None else [outputs[layer] for layer in layers]), frames
