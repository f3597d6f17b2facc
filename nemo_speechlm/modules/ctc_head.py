"""The CTC head of SpeechLM: from encoder states to character probabilities.

Axis legend: B utterances or sentences, D channels, T frames, V labels without the blank.
"""

from collections.abc import Sequence

import torch
from nemo.core.classes import Exportable, NeuralModule, typecheck
from nemo.core.neural_types import AcousticEncodedRepresentation, LogprobsType, NeuralType
from omegaconf import ListConfig, OmegaConf
from torch import Tensor, nn

from nemo_speechlm.kernels.norm import layer_norm


class SpeechLMCTCHead(NeuralModule, Exportable):
    """Convolution, dropout, layer norm, GELU and a projection (SpeechLM section 3.3, CTC on the text branch).

    The convolution sees a frame and the one before it, so padding behind an utterance cannot reach it. It has the
    interface of NeMo's ``ConvASRDecoder``: the blank is the last class, and a model may change its vocabulary.

    Args:
        feat_in: D, width of the encoder's states.
        num_classes: V; 0 or less takes the size of the vocabulary.
        vocabulary: the V labels.
        dropout: after the convolution.
    """

    def __init__(
        self, feat_in: int, num_classes: int = -1, vocabulary: Sequence[str] | None = None, dropout: float = 0.1
    ):
        super().__init__()
        if num_classes <= 0 and vocabulary is None:
            raise ValueError("SpeechLMCTCHead: give num_classes or vocabulary")
        if vocabulary is not None and num_classes > 0 and num_classes != len(vocabulary):
            raise ValueError(f"SpeechLMCTCHead: num_classes is {num_classes}, but there are {len(vocabulary)} labels")
        self._vocabulary = None if vocabulary is None else OmegaConf.create(list(vocabulary))
        self._num_classes = (num_classes if vocabulary is None else len(vocabulary)) + 1
        self.temperature = 1.0  # NeMo's change_decoding_strategy sets it
        self.conv = nn.Conv1d(feat_in, feat_in, kernel_size=2, stride=1, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.norm = layer_norm(feat_in)
        self.activation = nn.GELU()
        self.linear = nn.Linear(feat_in, self._num_classes)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        """Encoder states."""
        return {"encoder_output": NeuralType(("B", "D", "T"), AcousticEncodedRepresentation())}

    @property
    def output_types(self) -> dict[str, NeuralType]:
        """Log probabilities."""
        return {"logprobs": NeuralType(("B", "T", "D"), LogprobsType())}

    @typecheck()
    def forward(self, encoder_output: Tensor) -> Tensor:
        """States (B, D, T) -> log probabilities (B, T, V + 1), fp32. NeMo's type check wants it called by keyword."""
        x_BTD = self.conv(encoder_output)[:, :, : encoder_output.shape[2]].transpose(1, 2)
        logits = self.linear(self.activation(self.norm(self.dropout(x_BTD)))).float()
        return (logits / self.temperature).log_softmax(dim=-1)

    def forward_for_export(self, encoder_output: Tensor) -> Tensor:
        """:meth:`forward` in evaluation mode."""
        x_BTD = self.conv(encoder_output)[:, :, :-1].transpose(1, 2)
        return (self.linear(self.activation(self.norm(x_BTD))) / self.temperature).log_softmax(dim=-1)

    def input_example(self, max_batch: int = 2, max_dim: int = 60) -> tuple[Tensor]:
        """What NeMo's export traces with: (max_batch, D, max_dim)."""
        return (torch.randn(max_batch, self.conv.in_channels, max_dim, device=self.linear.weight.device),)

    @property
    def vocabulary(self) -> ListConfig | None:
        """The labels, without the blank."""
        return self._vocabulary

    @property
    def num_classes_with_blank(self) -> int:
        """V + 1."""
        return self._num_classes
