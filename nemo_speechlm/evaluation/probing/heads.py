"""The light heads that SUPERB puts on frozen layers.

Axis legend: B utterances, L layers, T frames, D width, P projected width, V outputs.
"""

import torch
from nemo.core.classes import NeuralModule
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nemo_speechlm.modules.padding import padding_mask


class LayerMix(NeuralModule):
    """A weighted mean of layers; the weights are a softmax of learned values, equal at first.

    Args:
        num_layers: how many.
    """

    def __init__(self, num_layers: int):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(num_layers))

    @property
    def weights(self) -> Tensor:
        """(L,), which sum to 1."""
        return self.values.softmax(0)

    def forward(self, layers: Tensor) -> Tensor:
        """(B, L, T, D) -> (B, T, D)."""
        return torch.einsum("bltd,l->btd", layers, self.weights.to(layers.dtype))


class FrameHead(NeuralModule):
    """A linear layer to each frame's outputs, behind a projection (phone recognition).

    Args:
        width: D.
        outputs: V.
        projection: P.
    """

    per_frame = True

    def __init__(self, width: int, outputs: int, projection: int = 256):
        super().__init__()
        self.project = nn.Linear(width, projection)
        self.output = nn.Linear(projection, outputs)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) and (B,) -> (B, T, V)."""
        return self.output(self.project(states))


class RecurrentHead(NeuralModule):
    """Bidirectional LSTMs between a projection and the outputs of each frame (recognition).

    Args:
        width: D.
        outputs: V.
        projection: P.
        hidden: width of each direction.
        n_layers: LSTMs.
        dropout: behind each of them.
    """

    per_frame = True

    def __init__(
        self,
        width: int,
        outputs: int,
        projection: int = 1024,
        hidden: int = 1024,
        n_layers: int = 2,
        dropout: float = 0.2,
    ):
        super().__init__()
        self.project = nn.Linear(width, projection)
        between = dropout if n_layers > 1 else 0.0
        self.lstm = nn.LSTM(projection, hidden, n_layers, batch_first=True, bidirectional=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * hidden, outputs)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) and (B,) -> (B, T, V)."""
        packed = pack_padded_sequence(
            self.project(states), lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        hidden, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=states.shape[1])
        return self.output(self.dropout(hidden))


class UtteranceHead(NeuralModule):
    """The mean over the frames between two linear layers (speaker, keyword, intent).

    Args:
        width: D.
        outputs: V.
        projection: P.
    """

    per_frame = False

    def __init__(self, width: int, outputs: int, projection: int = 256):
        super().__init__()
        self.project = nn.Linear(width, projection)
        self.output = nn.Linear(projection, outputs)

    def forward(self, states: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) and (B,) -> (B, V)."""
        padding = padding_mask(lengths, states.shape[1]).unsqueeze(2)
        total = self.project(states).masked_fill(padding, 0.0).sum(1)
        return self.output(total / lengths.clamp(min=1).unsqueeze(1))
