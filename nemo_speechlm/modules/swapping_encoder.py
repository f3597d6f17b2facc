"""SpeechLM's encoder with all frames swapped for units, as the CTC head that learned from text knows them."""

from typing import Any

from torch import Tensor, nn

from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.export_forward import transformer_states
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.unit_classifier import UnitClassifier


class SwappingEncoder(SpeechLMEncoder):
    """Its shared transformer runs twice: once to tell the units of speech, then on these units, as on those of text.

    Random swapping of pretraining (SpeechLM section 3.3) puts the embedding of a frame's unit in the place of its
    state, here and there. To recognize, this encoder does it in all frames. Nobody knows their units then, so each
    frame gets the mean of all units' embeddings, weighted by how likely the classifier at the shared transformer
    finds them. This is ours, not the paper's.

    Args:
        num_units: classes of the classifier, each with an embedding.
        unit_classifier: further arguments of :class:`UnitClassifier`.
        options: of :class:`SpeechLMEncoder`.
    """

    def __init__(
        self,
        num_units: int,
        unit_classifier: dict[str, Any] | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        self.unit_classifier = UnitClassifier(self.d_model, num_units, **(unit_classifier or {}))
        self.unit_embedding = nn.Embedding(num_units, self.d_model)

    def take_parts(self, encoder: SpeechLMEncoder, classifier: UnitClassifier, embedding: nn.Embedding) -> None:
        """Share the weights of an encoder, of the classifier at its shared transformer, of the units' embedding."""
        for name, part in encoder.named_children():
            setattr(self, name, part)
        self.mask_emb = encoder.mask_emb
        self.unit_classifier, self.unit_embedding = classifier, embedding

    def swapped(self, states: Tensor) -> Tensor:
        """States of the shared transformer (B, T, D) -> the expected embeddings of their units (B, T, D)."""
        embedding = self.unit_embedding.weight
        return self.unit_classifier(states).softmax(-1).to(embedding.dtype) @ embedding

    def layer_outputs(self, audio_signal: Tensor, length: Tensor) -> tuple[list[Tensor], Tensor]:
        """Every layer's output (B, T, D), and the lengths (B,); those of the shared layers are of the second time."""
        layers, lengths = super().layer_outputs(audio_signal, length)
        padding = padding_mask(lengths, layers[-1].shape[1])
        shared, outputs = self.encode_shared(self.swapped(layers[-1]), padding)
        return [*layers[: -len(outputs)], *outputs[:-1], shared], lengths

    def forward_for_export(self, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`forward` in evaluation mode, as a graph for inputs of any size."""
        states, lengths = super().forward_for_export(audio_signal, length)
        padding = padding_mask(lengths, states.shape[2])
        again = transformer_states(self.shared_transformer, self.swapped(states.transpose(1, 2)), padding)
        return again.transpose(1, 2), lengths
